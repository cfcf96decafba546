import pytest
import torch

from rlv2v_fast.nn.norm import FusibleNorm
from rlv2v_fast.ops import blocks
from rlv2v_fast.ops.blocks import norm_relu
from rlv2v_fast.ops.causal_conv3d import causal_conv3d
from rlv2v_fast.reference.blocks import causal_conv3d_reference


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (2, 1, 3), (1, 3, 3)])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("batch", [1, 2])
def test_causal_conv3d_equals_the_reference_on_every_route(batch, frames, kernel, bias):
    x = torch.randn(batch, 3, frames, 5, 6)
    weight = torch.randn(4, 3, *kernel)
    offset = torch.randn(4) if bias else None
    for history in (None, torch.randn(batch, 3, kernel[0] - 1, 5, 6)):
        got, _ = causal_conv3d(x, weight, offset, history)
        exact = causal_conv3d_reference(
            x.double(),
            weight.double(),
            offset.double() if bias else None,
            history.double() if history is not None else None,
        )
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)


def test_causal_conv3d_carries_its_history():
    x, weight = torch.randn(1, 2, 5, 4, 4), torch.randn(3, 2, 3, 3, 3)
    whole, _ = causal_conv3d(x, weight)
    pieces, history = [], None
    for frame in x.split(1, dim=2):
        y, history = causal_conv3d(frame, weight, None, history)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=1e-5, atol=1e-5)


def test_causal_conv3d_gradients_on_the_single_clip_route():
    x = torch.randn(1, 2, 3, 4, 4, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, 3, requires_grad=True)
    ours = torch.autograd.grad(causal_conv3d(x, weight)[0].square().sum(), (x, weight))
    plain = torch.autograd.grad(causal_conv3d_reference(x, weight, None).square().sum(), (x, weight))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_causal_conv3d_names_what_does_not_fit():
    weight = torch.randn(3, 2, 3, 3, 3)
    with pytest.raises(ValueError, match=r"x must have shape \(B, 2, T, H, W\); got \(1, 3, 4, 5, 5\)"):
        causal_conv3d(torch.zeros(1, 3, 4, 5, 5), weight)
    with pytest.raises(ValueError, match=r"history must have shape \(1, 2, 2, 5, 5\); got \(1, 2, 1, 5, 5\)"):
        causal_conv3d(torch.zeros(1, 2, 4, 5, 5), weight, None, torch.zeros(1, 2, 1, 5, 5))


@pytest.mark.parametrize(
    ("side", "gradient", "backend", "fused"),
    [
        (60, True, "auto", False),
        (64, True, "auto", True),
        (64, False, "auto", True),
        (16, False, "auto", False),
        (16, True, "cpp", True),
        (64, True, "reference", False),
    ],
)
def test_auto_leaves_small_tensors_to_pytorch(side, gradient, backend, fused, monkeypatch):
    monkeypatch.undo()  # the fixture that fuses at any size
    called = []
    monkeypatch.setattr(blocks, "bn_relu", lambda x, norm, **_: called.append(x.shape) or (x, None, None))
    x = torch.randn(1, 8, 4, side, side, requires_grad=gradient)
    norm_relu(x, FusibleNorm(torch.nn.BatchNorm3d(8)), backend=backend)
    assert bool(called) == fused
