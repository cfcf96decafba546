"""pixel_map in Triton against the reference in float64."""

import pytest
import torch

from rlv2v_fast.ops.pixel_map import PixelMapConstants, PixelMapParameters, pixel_map
from tests.ops.pixel_map_cases import away_from_kinks, draw, gradients

# (N, C, H, W), features, hidden, levels: one of everything, odd sizes over several blocks, padded to a power of two.
SIZES = [((1, 1, 1, 1), 1, 1, 0), ((2, 3, 9, 13), 20, 12, 4), ((1, 3, 5, 7), 64, 32, 17), ((1, 2, 3, 30), 5, 40, 0)]
# Largest error beside the largest entry. Under autocast the interpreter rounds as a GPU does, but for ties.
TOLERANCE = 2e-5


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forward_and_backward(size, clamp, device, monkeypatch):
    shape, features, hidden, levels = size
    frames, parameters = draw(shape, features, hidden, levels, device=device)
    constants = PixelMapConstants(0.3, 2.0, 0.2, clamp)
    monkeypatch.setattr("rlv2v_fast.kernels.pixel_map.PROGRAMS", 2)  # several blocks a program
    grad = away_from_kinks(frames, parameters, constants.slope)
    found = gradients(frames, parameters, constants, backend="triton", grad=grad)
    wanted = gradients(frames.double(), parameters.double(), constants, backend="reference", grad=grad)
    for ours, exact in zip(found, wanted, strict=True):
        assert ours.shape == exact.shape
        assert (ours - exact).abs().max() <= TOLERANCE * exact.abs().max()


@pytest.mark.parametrize("needed", ["frames", "parameters", "table"])
def test_each_gradient_alone_is_that_of_all(needed, device):
    frames, parameters = draw((1, 3, 4, 5), 6, 5, 3, device=device)
    constants = PixelMapConstants(0.3, 2.0, 0.2, True)
    everything = gradients(frames, parameters, constants, backend="triton")
    alone = gradients(frames, parameters, constants, backend="triton", needed=needed)
    places = {"frames": [1], "parameters": range(2, 12), "table": [12]}[needed]
    assert all(torch.equal(alone[1 + i], everything[at]) for i, at in enumerate(places))


def test_nan_reaches_its_pixel_alone(device):
    frames, parameters = draw((1, 3, 6, 7), 6, 5, 3, device=device)
    frames[0, 1, 2, 3] = float("nan")
    y = pixel_map(frames, parameters, PixelMapConstants(0.3, 2.0, 0.2, True), backend="triton")
    assert y.isnan().all(1)[0, 2, 3]
    assert y.isnan().sum() == 3


def test_operator_registration(device):
    frames, parameters = draw((1, 3, 4, 5), 6, 5, 3, device=device)
    given = [t.requires_grad_() for t in (frames, *parameters)]
    operators = torch.ops.rlv2v_fast
    torch.library.opcheck(operators.pixel_map_triton_fwd.default, (*given, 0.3, 2.0, 0.2, False, False))
    needs = (True, True, True)
    arguments = (torch.randn_like(frames), *(t.detach() for t in given), 0.3, 2.0, 0.2, False, False, *needs)
    torch.library.opcheck(operators.pixel_map_triton_bwd.default, arguments)


def test_triton_says_why_it_cannot(device, monkeypatch):
    def refusal(frames, parameters):
        with pytest.raises(RuntimeError) as caught:
            pixel_map(frames, PixelMapParameters(*parameters), PixelMapConstants(0.3, 2.0, 0.2, True), backend="triton")
        return str(caught.value)

    frames, parameters = draw((1, 3, 4, 5), 6, 5, 3, device=device)
    assert "take float32, not torch.float64" in refusal(frames.double(), parameters.double())
    assert "at most 64 features, not 65" in refusal(*draw((1, 3, 2, 2), 65, 5, 3, device=device))
    torch.use_deterministic_algorithms(True)
    try:
        assert "in no fixed order" in refusal(frames, parameters)
    finally:
        torch.use_deterministic_algorithms(False)
