import pytest
import torch
from torch.library import opcheck

from rlv2v_fast.ops.backends import BackendFallbackWarning
from rlv2v_fast.ops.bn_stats import bn_stats
from tests.ops.bn_cases import LAYOUTS, SHAPES, Place, clip, fused, needs_cpp

BACKENDS = ["reference", pytest.param("cpp", marks=needs_cpp)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_mean_and_biased_variance_over_the_batch_or_each_frame(shape, layout, backend):
    x = clip(shape, layout)
    for per_frame, dims in ((False, (0, 2, 3, 4)), (True, (3, 4))):
        wanted = x.mean(dims), x.var(dims, correction=0)
        torch.testing.assert_close(bn_stats(x, per_frame=per_frame, backend=backend), wanted, rtol=1e-12, atol=1e-12)


@fused
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_mean_or_an_outlier_keeps_the_variance_accurate(layout):
    x = torch.randn(2, 5, 4, 33, 37, device=Place.device).contiguous(memory_format=layout)
    x[0, :, 0, 0, 0] += 1e4  # the first value of every channel
    for moved in (x, x + 1000):
        mean, var = bn_stats(moved, backend="cpp")
        exact = bn_stats(moved.double(), backend="reference")
        # The outlier makes the deviation larger than 100.
        torch.testing.assert_close(mean.double(), exact[0], rtol=2e-7, atol=1e-6)
        torch.testing.assert_close(var.double(), exact[1], rtol=2e-6, atol=0)


@fused
def test_the_number_of_threads_does_not_change_a_bit():
    threads = torch.get_num_threads()
    try:
        for layout in LAYOUTS:
            x = clip((3, 20, 4, 33, 37), layout, torch.float32)
            found = []
            for count in (1, 2):
                torch.set_num_threads(count)
                found.append(bn_stats(x, backend="cpp"))
            assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    finally:
        torch.set_num_threads(threads)


@fused
def test_sliced_input_and_no_values_at_all():
    x = clip((2, 3, 4, 6, 10))[..., ::2]
    torch.testing.assert_close(bn_stats(x, backend="cpp"), bn_stats(x, backend="reference"))
    for statistic in bn_stats(torch.zeros(0, 3, 2, 2, 2, device=Place.device), backend="cpp"):
        assert statistic.shape == (3,)
        assert statistic.isnan().all()


@fused
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_half_types_are_float32(dtype):
    for layout in LAYOUTS:
        x = clip((2, 5, 4, 33, 37), layout, torch.float32).detach().to(dtype)
        found = bn_stats(x, backend="cpp")
        assert all(statistic.dtype == torch.float32 for statistic in found)
        torch.testing.assert_close(found, bn_stats(x.float(), backend="cpp"), rtol=1e-6, atol=1e-6)


@fused
def test_nan_stays_in_its_channel():
    x = clip((2, 3, 2, 5, 5)).detach()
    x[1, 1, 0, 2, 2] = float("nan")
    mean, var = bn_stats(x, backend="cpp")
    assert mean.isnan().tolist() == var.isnan().tolist() == [False, True, False]


@fused
def test_opcheck():
    for layout in LAYOUTS:
        for per_frame in (False, True):
            opcheck(torch.ops.rlv2v_fast.bn_stats, (clip((2, 3, 2, 5, 4), layout).detach(), per_frame))


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"x must have shape \(B, C, T, H, W\); got \(2, 3\)"):
        bn_stats(torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match=r"takes float32, float64, float16 and bfloat16, not torch.complex64"):
        bn_stats(torch.zeros(1, 1, 1, 2, 2, dtype=torch.complex64), backend="cpp")


def test_another_device_runs_the_reference_and_cpp_says_why_not():
    with pytest.raises(RuntimeError, match=r"the C\+\+ operators run on cpu and cuda, not on meta"):
        bn_stats(torch.zeros(1, 1, 1, 2, 2, device="meta"), backend="cpp")
    with pytest.warns(BackendFallbackWarning, match="not on meta"):
        assert bn_stats(torch.zeros(1, 3, 1, 2, 2, device="meta"))[0].shape == (3,)
