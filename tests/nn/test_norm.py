import pytest
import torch
from torch import nn

from rlv2v_fast.nn.norm import FrameInstanceNorm, evaluating, make_norm


def test_frame_instance_norm_normalizes_each_frame_by_itself():
    layer = FrameInstanceNorm(3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        layer.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    mean, var = x.mean((3, 4), keepdim=True), x.var((3, 4), unbiased=False, keepdim=True)
    wanted = (x - mean) / (var + 1e-5).sqrt() * layer.weight.view(3, 1, 1, 1) + layer.bias.view(3, 1, 1, 1)
    torch.testing.assert_close(layer(x), wanted)


def test_make_norm_knows_its_names():
    assert isinstance(make_norm("batch", 2), nn.BatchNorm3d)
    assert isinstance(make_norm("instance", 2), FrameInstanceNorm)
    with pytest.raises(ValueError, match="norm must be one of batch, instance; got 'layer'"):
        make_norm("layer", 2)


def test_evaluating_restores_the_mode_even_after_an_error():
    training, evaluated = nn.BatchNorm3d(1).train(), nn.BatchNorm3d(1).eval()

    def fail_while_evaluating():
        with evaluating(training, evaluated):
            assert not training.training
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_evaluating()
    assert training.training
    assert not evaluated.training
