import pytest
import torch

from rlv2v_fast.nn.norm import FusibleNorm
from rlv2v_fast.ops import blocks
from rlv2v_fast.ops.blocks import norm_relu


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
