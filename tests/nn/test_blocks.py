import pytest
import torch
import torch.nn.functional as F

from rlv2v_fast.nn.blocks import RPB, URB, R

BLOCKS = [R, RPB, URB]


def plain(block, x):
    """The block's formula with PyTorch's own layers and explicit left padding in time."""

    def conv(layer, x):
        before = layer.weight.shape[2] - 1
        return F.conv3d(
            F.pad(x, (0, 0, 0, 0, before, 0)), layer.weight, padding=(0, *(k // 2 for k in layer.weight.shape[3:]))
        )

    if isinstance(block, URB):
        x = F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest")
    shortcut = x if block.skip is None else conv(block.skip, x)
    y = F.relu(block.bn2(conv(block.conv2, F.relu(block.bn1(conv(block.conv1, x))))) + shortcut)
    if isinstance(block, RPB):
        y = F.max_pool3d(y, (1, 2, 2), (1, 2, 2))
    return y if type(block) is R else block.bn3(y)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [(3, 5), (4, 4)])
@pytest.mark.parametrize("kind", BLOCKS)
def test_block_is_its_formula(kind, channels, training, norm):
    block = kind(*channels, norm=norm).double().train(training)
    x = torch.randn(2, channels[0], 3, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), plain(block, x))


@pytest.mark.parametrize("kind", BLOCKS)
def test_no_output_frame_depends_on_a_later_one_in_eval_mode(kind):
    block = kind(2, 3).double().eval()
    x = torch.randn(1, 2, 5, 4, 4, dtype=torch.float64)
    y = block(x)
    for t in range(1, 5):
        changed = x.clone()
        changed[:, :, t:] += 1
        torch.testing.assert_close(block(changed)[:, :, :t], y[:, :, :t], rtol=0, atol=0)
        assert not torch.equal(block(changed)[:, :, t], y[:, :, t])


@pytest.mark.parametrize("kind", BLOCKS)
def test_streaming_equals_the_whole_clip(kind):
    block = kind(2, 3).double().eval()
    x = torch.randn(2, 2, 6, 4, 4, dtype=torch.float64)
    state, parts = None, []
    for piece in x.split([1, 2, 3], dim=2):
        y, state = block.stream(piece, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 2), block(x))


@pytest.mark.parametrize("kind", BLOCKS)
def test_state_dict_has_the_documented_names(kind):
    names = {name.split(".")[0] for name in kind(2, 3).state_dict()}
    assert names == {"conv1", "bn1", "conv2", "bn2", "skip"} | ({"bn3"} if kind is not R else set())
    assert not any(name.startswith("skip") for name in kind(3, 3).state_dict())
    assert not any("conv" in name and "bias" in name for name in kind(2, 3).state_dict())


def test_sizes():
    x = torch.randn(1, 2, 3, 7, 9)
    assert R(2, 4)(x).shape == (1, 4, 3, 7, 9)
    assert RPB(2, 4)(x).shape == (1, 4, 3, 3, 4)
    assert URB(2, 4)(x).shape == (1, 4, 3, 14, 18)


@pytest.mark.parametrize("kind", BLOCKS)
def test_gradients(kind):
    block = kind(2, 3).double()
    x = torch.randn(2, 2, 2, 4, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(block, (x,))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="norm must be one of batch, instance; got 'group'"):
        R(2, 3, norm="group")
    with pytest.raises(ValueError, match="backend must be one of"):
        R(2, 3, backend="cudnn")
    with pytest.raises(ValueError, match=r"x must have shape \(B, 2, T, H, W\)"):
        R(2, 3)(torch.zeros(1, 4, 2, 4, 4))
