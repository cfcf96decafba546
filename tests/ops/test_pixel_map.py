"""pixel_map by the C++ operator: against float64, on awkward inputs, its derivatives, and what it refuses."""

import os
import subprocess
import sys

import pytest
import torch

from rlv2v_fast import extension
from rlv2v_fast.ops import pixel_map as module
from rlv2v_fast.ops.pixel_map import PixelMapConstants, pixel_map
from rlv2v_fast.reference.pixel_map import looked_up_reference
from tests.ops.pixel_map_cases import away_from_kinks, draw, gradients

needs_cpp = pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu()))
CONSTANTS = PixelMapConstants(gain=0.3, speed=3.0, slope=0.2, clamp=False)
CLAMPED = CONSTANTS._replace(clamp=True)
# (N, C, H, W), features, hidden, levels: one of everything; odd; the sizes of few-shot training over several blocks and
# frames; several chunks; wider than a vector of any processor; without a table; whole blocks.
SIZES = [
    ((1, 1, 1, 1), 1, 1, 0),
    ((2, 3, 7, 5), 5, 7, 3),
    ((3, 3, 12, 19), 64, 32, 17),
    ((1, 3, 60, 90), 6, 4, 2),
    ((1, 3, 8, 12), 80, 48, 4),
    ((2, 5, 6, 40), 12, 20, 0),
]


def error(found, exact):
    """The largest error over the largest value."""
    assert found.shape == exact.shape
    return ((found - exact).abs().max() / exact.abs().max().clamp_min(1e-30)).item()


def spread(found, exact):
    """The root mean square of the error over that of the value."""
    return ((found - exact).square().mean() / exact.square().mean()).sqrt().item()


@needs_cpp
@pytest.mark.parametrize("constants", [CONSTANTS, CLAMPED], ids=["linear", "clamped"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_result_and_gradients_are_those_of_float64(size, constants):
    frames, parameters = draw(*size)
    grad = away_from_kinks(frames, parameters, constants.slope)
    assert (grad != 0).float().mean() >= 0.8
    exact = gradients(frames.double(), parameters.double(), constants, backend="reference", grad=grad)
    found = gradients(frames, parameters, constants, backend="cpp", grad=grad)
    in_float64 = gradients(frames.double(), parameters.double(), constants, backend="cpp", grad=grad)
    assert all(error(ours, wanted) <= 1e-5 for ours, wanted in zip(found, exact, strict=True))
    assert all(error(ours, wanted) <= 1e-13 for ours, wanted in zip(in_float64, exact, strict=True))


@needs_cpp
@pytest.mark.parametrize("size", [((2, 3, 9, 12), 64, 32, 17), ((2, 3, 9, 12), 20, 12, 5)], ids=str)
def test_under_autocast_it_is_as_exact_as_pytorch(size):
    frames, parameters = draw(*size)
    exact = gradients(frames.double(), parameters.double(), CONSTANTS, backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(frames, parameters, CONSTANTS, backend="cpp")
        by_pytorch = gradients(frames, parameters, CONSTANTS, backend="reference")
    for ours, theirs, wanted in zip(found, by_pytorch, exact, strict=True):
        assert ours.dtype == torch.float32
        assert spread(ours, wanted) <= 1.25 * spread(theirs, wanted) + 1e-6


@needs_cpp
@pytest.mark.parametrize("phase", [0.0, 1.0, 100.0, 8000.0, 1e5, 1e30])
def test_sines_and_cosines_are_right_at_any_phase(phase):
    frames, parameters = draw((1, 1, 1, 1), 40, 3, 0)
    # No product rounds: phases are the biases, and a feature is one output.
    near = (phase + torch.linspace(-4, 4, 40)) if phase < 1e20 else torch.full((40,), phase)
    zero = [torch.zeros_like(t) for t in parameters[:-1]]
    zero[1] = near
    for feature in (0, 17, 39):
        given = [t.clone() for t in zero]
        given[2][0, 3 + feature] = 1.0
        given[4][0, 0] = given[6][0, 0] = given[8][1, 0] = 1.0
        given = module.PixelMapParameters(*(t.requires_grad_() for t in given), None)
        y = pixel_map(frames, given, CONSTANTS._replace(slope=1.0), backend="cpp")
        emission = y - (frames + 1) * 0.3 + 1
        assert (emission - near[feature].double().sin()).abs().max() <= 4e-7
        slope = torch.autograd.grad(y, given.project_bias)[0][feature]
        assert (slope - near[feature].double().cos()).abs() <= 4e-7


@needs_cpp
@pytest.mark.parametrize("needed", ["frames", "parameters", "table", "frames table"])
def test_each_gradient_alone_is_that_of_all(needed):
    frames, parameters = draw((2, 3, 8, 9), 12, 20, 4)
    for constants in (CONSTANTS, CLAMPED):
        everything = gradients(frames, parameters, constants, backend="cpp")
        alone = gradients(frames, parameters, constants, backend="cpp", needed=needed)
        of = {"frames": [1], "parameters": range(2, 12), "table": [12]}
        places = [at for name in needed.split() for at in of[name]]
        assert all(torch.equal(ours, everything[at]) for ours, at in zip(alone[1:], places, strict=True))


@needs_cpp
def test_any_strides_give_the_same_bits():
    frames, parameters = draw((2, 3, 8, 10), 12, 8, 3)
    grad = torch.randn(2, 3, 8, 10)
    wanted = gradients(frames, parameters, CONSTANTS, backend="cpp", grad=grad)
    for form in (
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        lambda t: t.repeat_interleave(2, -1)[..., ::2],
    ):
        turned = parameters._replace(weight2=parameters.weight2.t().contiguous().t(), table=parameters.table.clone())
        found = gradients(form(frames), turned, CONSTANTS, backend="cpp", grad=form(grad))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))
    one = gradients(frames, parameters, CONSTANTS, backend="cpp", grad=torch.ones(()).expand(2, 3, 8, 10))
    same = gradients(frames, parameters, CONSTANTS, backend="cpp", grad=torch.ones(2, 3, 8, 10))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))


@needs_cpp
def test_parameters_may_be_kernels_of_convolutions():
    frames, p = draw((1, 3, 4, 5), 6, 5, 3)
    kernels = type(p)(*(t[:, :, None, None] if t is not None and t.dim() == 2 else t for t in p))
    found, wanted = (gradients(frames, each, CONSTANTS, backend="cpp") for each in (kernels, p))
    assert found[2].shape == (6, 5, 1, 1)
    assert all(torch.equal(ours.flatten(), theirs.flatten()) for ours, theirs in zip(found, wanted, strict=True))


@needs_cpp
def test_more_threads_change_no_bit():
    frames, parameters = draw((2, 3, 70, 61), 20, 12, 5)
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(gradients(frames, parameters, CLAMPED, backend="cpp"))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@needs_cpp
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e20])
@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_not_finite_reaches_its_pixel_alone(value, autocast):
    frames, parameters = draw((2, 3, 9, 12), 64, 32, 17)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = pixel_map(frames, parameters, CLAMPED, backend="cpp")
        frames[1, 2, 3, 4] = value
        after = pixel_map(frames, parameters, CLAMPED, backend="cpp")
        wanted = pixel_map(frames, parameters, CLAMPED, backend="reference")
    hit = torch.zeros(2, 1, 9, 12, dtype=torch.bool)
    hit[1, 0, 3, 4] = True
    assert torch.equal(after[~hit.expand_as(after)], before[~hit.expand_as(before)])
    assert torch.equal(after.isnan(), wanted.isnan())


@needs_cpp
def test_a_nan_in_a_gradient_reaches_its_pixel_alone():
    frames, parameters = draw((1, 3, 6, 7), 5, 6, 3)
    grad = torch.randn(1, 3, 6, 7)
    grad[0, 1, 2, 3] = float("nan")
    found = gradients(frames, parameters, CONSTANTS, backend="cpp", grad=grad)[1]
    assert found[0, :, 2, 3].isnan().all()
    assert found.isnan().sum() == 3


@needs_cpp
def test_opcheck():
    frames, parameters = draw((2, 3, 4, 6), 5, 6, 3)
    operators = torch.ops.rlv2v_fast
    for p in (parameters, draw((2, 3, 4, 6), 5, 6, 0)[1]):
        given = [None if t is None else t.clone().requires_grad_() for t in (frames, *p)]
        torch.library.opcheck(operators.pixel_map_fwd, (*given, 0.3, 3.0, 0.2, True, False))
        # Without a table, also without the gradient of the frames.
        needs = (p.table is not None, True, p.table is not None)
        arguments = (torch.randn_like(frames), frames, *p, 0.3, 3.0, 0.2, True, False, *needs)
        torch.library.opcheck(operators.pixel_map_bwd, arguments)


@needs_cpp
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0, 5)])
def test_no_pixels_give_empty_results_and_zeros(shape):
    frames, parameters = draw(shape, 5, 6, 3)
    y, of_frames, *rest = gradients(frames, parameters, CONSTANTS, backend="cpp")
    assert y.shape == of_frames.shape == shape
    assert all(not grad.any() for grad in rest)


@needs_cpp
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_every_instruction_set_agrees(isa):
    code = (
        "import torch; from tests.ops.test_pixel_map import *; torch.manual_seed(0)\n"
        "f, p = draw((2, 3, 12, 19), 64, 32, 17)\n"
        "g = away_from_kinks(f, p, CLAMPED.slope)\n"
        "found = gradients(f, p, CLAMPED, backend='cpp', grad=g)\n"
        "wanted = gradients(f.double(), p.double(), CLAMPED, backend='reference', grad=g)\n"
        "print(max(error(a, b) for a, b in zip(found, wanted)))"
    )
    environment = {**os.environ, "RLV2V_FAST_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert float(done.stdout) < 1e-5, done.stderr


def test_pytorchs_look_up_equals_the_reference():
    frames, parameters = draw((2, 3, 8, 9), 1, 1, 5)
    frames = frames.double().requires_grad_()
    table = parameters.table.double().requires_grad_()
    grad = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    results = [look_up(frames, table) for look_up in (module._sampled, looked_up_reference)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad(y, (frames, table), grad) for y in results))


@needs_cpp
def test_cpp_says_why_it_cannot():
    frames, parameters = draw((1, 3, 2, 2), 3, 4, 2)
    half = type(parameters)(*(t.bfloat16() for t in parameters))
    with pytest.raises(RuntimeError, match=r"takes float32 and float64, not torch\.bfloat16"):
        pixel_map(frames.bfloat16(), half, CONSTANTS, backend="cpp")
    with pytest.raises(RuntimeError, match="the Triton kernels run on a GPU, not on cpu"):
        pixel_map(frames, parameters, CONSTANTS, backend="triton")
    with pytest.raises(ValueError, match="backend must be one of"):
        pixel_map(frames, parameters, CONSTANTS, backend="fastest")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": torch.zeros(3, 4, 5)}, r"frames must have shape \(N, C, H, W\); got \(3, 4, 5\)"),
        ({"project": torch.zeros(5, 4)}, r"project must have shape \(5, 5\); got \(5, 4\)"),
        ({"project": torch.zeros(5, 5, 3, 3)}, r"project must be a matrix or a 1x1 kernel; got shape \(5, 5, 3, 3\)"),
        ({"weight1": torch.zeros(6, 9)}, r"weight1 must have shape \(6, 10\); got \(6, 9\)"),
        ({"weight3": torch.zeros(6, 5)}, r"weight3 must have shape \(6, 6\); got \(6, 5\)"),
        ({"head": torch.zeros(3, 6)}, r"head must have shape \(6, 6\); got \(3, 6\)"),
        ({"bias2": torch.zeros(5)}, r"bias2 must have shape \(6,\); got \(5,\)"),
        ({"table": torch.zeros(3, 4, 4, 5)}, r"shape \(3, L, L, L\) with L >= 2; got \(3, 4, 4, 5\) for 3 channels"),
        ({"head_bias": torch.zeros(6).double()}, "head_bias must have the dtype of frames, .*float32; got .*float64"),
        ({"bias1": torch.zeros(6, device="meta")}, "bias1 must be on the device of frames, cpu; got meta"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    frames, parameters = draw((1, 3, 4, 5), 5, 6, 3)
    frames = change.pop("frames", frames)
    with pytest.raises(ValueError, match=message):
        pixel_map(frames, parameters._replace(**change), CONSTANTS)
