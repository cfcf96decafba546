import copy
import warnings

import pytest
import torch
import torch.nn.functional as F

from rlv2v_fast import extension
from rlv2v_fast.nn.blocks import RPB, URB, R
from rlv2v_fast.ops import backends
from rlv2v_fast.ops.backends import BackendFallbackWarning

BLOCKS = [R, RPB, URB]
needs_cpp = pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu()))


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
    for backend in ("cudnn", "triton"):
        with pytest.raises(ValueError, match=f"backend must be one of auto, cpp, reference; got '{backend}'"):
            R(2, 3, backend=backend)
    with pytest.raises(ValueError, match=r"x must have shape \(B, 2, T, H, W\)"):
        R(2, 3)(torch.zeros(1, 4, 2, 4, 4))


def trained(block, x, grad, mode):
    """Output, gradients and buffers after one step of `mode` training or not."""
    block.train(mode)
    x = x.detach().requires_grad_()
    y = block(x)
    parameters = list(block.parameters())
    return y, torch.autograd.grad(y, (x, *parameters), grad(y)), dict(block.named_buffers())


def set_norms(block, make):
    for name, module in list(block.named_children()):
        if isinstance(module, torch.nn.BatchNorm3d):
            setattr(block, name, make(module.num_features))


NORM_OPTIONS = [
    {},
    {"momentum": None},
    {"track_running_stats": False},
    {"affine": False},
    {"momentum": 1.0, "eps": 1e-2},
]


@needs_cpp
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("options", NORM_OPTIONS, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [(3, 5), (4, 4)])
@pytest.mark.parametrize("kind", BLOCKS)
def test_fused_equals_reference_in_outputs_gradients_and_buffers(kind, channels, training, options, layout):
    blocks = {}
    for backend in ("cpp", "reference"):
        torch.manual_seed(3)
        blocks[backend] = kind(*channels, backend=backend)
        set_norms(blocks[backend], lambda n: torch.nn.BatchNorm3d(n, **options))
        blocks[backend].double()
    x = torch.randn(2, channels[0], 3, 7, 6, dtype=torch.float64).contiguous(memory_format=layout)
    # The second step starts from statistics that are no longer the initial ones.
    for mode in (True, training):
        ours, wanted = (trained(block, x, lambda y: torch.cos(y.detach()), mode) for block in blocks.values())
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-9)


@needs_cpp
@pytest.mark.parametrize("kind", BLOCKS)
def test_fused_instance_norm_equals_reference(kind):
    fused, plain_block = (kind(3, 5, norm="instance", backend=backend).double() for backend in ("cpp", "reference"))
    plain_block.load_state_dict(fused.state_dict())
    x = torch.randn(2, 3, 3, 7, 6, dtype=torch.float64)
    ours, wanted = (trained(block, x, torch.cos, True) for block in (fused, plain_block))
    torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-9)


@needs_cpp
@pytest.mark.parametrize("kind", BLOCKS)
def test_fused_takes_expanded_gradients_slices_and_no_clips(kind):
    fused, plain_block = (kind(2, 3, backend=backend).double() for backend in ("cpp", "reference"))
    plain_block.load_state_dict(fused.state_dict())
    for x in (torch.randn(2, 2, 2, 6, 12).double()[..., ::2], torch.zeros(0, 2, 2, 6, 6).double()):
        ours, wanted = (
            trained(block, x, lambda y: torch.ones((), dtype=y.dtype).expand_as(y), True)
            for block in (fused, plain_block)
        )
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-9)


@needs_cpp
@pytest.mark.parametrize(("kind", "norm"), [(RPB, "batch"), (URB, "instance")])
def test_fused_compiles_as_one_graph_with_its_gradients(kind, norm):
    fused, plain_block = (kind(2, 3, norm=norm, backend=backend).double() for backend in ("cpp", "reference"))
    plain_block.load_state_dict(fused.state_dict())
    x = torch.randn(2, 2, 2, 6, 6, dtype=torch.float64)
    results = []
    for block, call in ((fused, torch.compile(fused, fullgraph=True)), (plain_block, plain_block)):
        y = call(x)
        grads = torch.autograd.grad(y.exp().sum(), list(block.parameters()))
        results.append((y, grads, dict(block.named_buffers())))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@needs_cpp
def test_training_refuses_one_value_per_channel_as_pytorch_does():
    for backend in ("cpp", "reference"):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            R(2, 2, backend=backend)(torch.zeros(1, 2, 1, 1, 1))
        # The pooled clip, too, must have more than one value.
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            RPB(2, 2, backend=backend)(torch.zeros(1, 2, 1, 2, 3))


@needs_cpp
def test_a_norm_that_cannot_be_fused_is_called(monkeypatch):
    monkeypatch.setattr(backends, "_warned", set())  # it warns once
    block = R(2, 3).double()
    seen = []
    block.bn1.register_forward_hook(lambda module, arguments, output: seen.append(output.shape))
    with pytest.warns(BackendFallbackWarning, match="the BatchNorm3d has hooks"):
        block(torch.randn(1, 2, 2, 4, 4).double())
    assert seen == [(1, 3, 2, 4, 4)]
    block = R(2, 3, backend="cpp")
    block.bn2 = torch.nn.GroupNorm(1, 3)
    with pytest.raises(RuntimeError, match="a GroupNorm is no plain BatchNorm3d"):
        block(torch.randn(1, 2, 2, 4, 4))


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_fuse_changes_outputs_by_rounding_only(kind, backend, norm):
    block = kind(3, 5, norm=norm, backend=backend).double()
    x = torch.randn(2, 3, 3, 6, 8, dtype=torch.float64)
    for _ in range(3):
        block(torch.randn_like(x) + 1)  # running statistics away from 0 and 1
    wanted, state = block.eval().stream(x, None)
    folded = copy.deepcopy(block).fuse()
    torch.testing.assert_close(folded.stream(x, None)[0], wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(folded.stream(x, state)[0], block.stream(x, state)[0], rtol=1e-12, atol=1e-12)
    assert isinstance(folded.bn1, torch.nn.Identity) == (norm == "batch")
    assert isinstance(block.bn1, torch.nn.Identity) is False


def test_fuse_refuses_batch_statistics():
    with pytest.raises(RuntimeError, match="bn1 cannot be folded into conv1: it is in training mode"):
        R(2, 3).fuse()
    assert R(2, 3, norm="instance").fuse() is not None


def off(tensors, exact):
    """How far each tensor is from the exact one, relative to its norm."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(tensors, exact, strict=True)]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_on_a_gpu_its_error_is_within_twice_pytorchs_own(kind, norm, layout, dtype):
    x = torch.randn(2, 8, 3, 18, 16, device="cuda").contiguous(memory_format=layout)
    errors = []
    torch.manual_seed(3)
    block = kind(8, 16, norm=norm).cuda()
    exact = copy.deepcopy(block).double()
    exact.backend = "reference"
    y, grads, _ = trained(exact, x.double(), torch.cos, True)
    for backend in ("cpp", "reference"):
        block.backend = backend
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            out, out_grads, _ = trained(block, x, torch.cos, True)
        errors.append(off((out, *out_grads), (y, *grads)))
    # TF32 or bfloat16 convolutions make most of either error.
    for ours, pytorch in zip(*errors, strict=True):
        assert ours <= 2 * max(pytorch, torch.finfo(dtype).eps)


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_under_autocast_on_a_cpu_decline_nothing(kind, monkeypatch):
    monkeypatch.setattr(backends, "_warned", set())
    block = kind(8, 8)
    x = torch.randn(2, 8, 2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error", BackendFallbackWarning)
        for skip_dtype in (torch.float32, torch.bfloat16):
            found = block(x.to(skip_dtype))
            block.backend, backend = "reference", block.backend
            wanted = block(x.to(skip_dtype))
            block.backend = backend
            assert found.dtype == wanted.dtype
            torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05)
            found.float().sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_float32_skip_under_autocast_runs_the_reference(kind, monkeypatch):
    monkeypatch.setattr(backends, "_warned", set())  # it warns once, and R and URB say the same
    block = kind(8, 8).cuda()
    with (
        torch.autocast("cuda", torch.bfloat16),
        pytest.warns(BackendFallbackWarning, match="the skip is torch.float32"),
    ):
        block(torch.randn(2, 8, 2, 8, 8, device="cuda"))
