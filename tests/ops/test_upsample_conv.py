import pytest
import torch
import torch.nn.functional as F

from rlv2v_fast.ops import upsample_conv as module
from rlv2v_fast.ops.upsample_conv import is_worthwhile, upsample_conv

LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]


@pytest.fixture
def always_transposed(monkeypatch):
    monkeypatch.setattr(module, "is_fused", lambda *given, **options: False)
    monkeypatch.setattr(module, "is_worthwhile", lambda x, weight: True)


def written_out(x, weight, bias=None, history=None):
    before = torch.zeros_like(x[:, :, :1]).repeat(1, 1, 2, 1, 1) if history is None else history
    up = F.interpolate(torch.cat([before, x], 2), scale_factor=(1, 2, 2), mode="nearest")
    return F.conv3d(up, weight, bias, padding=(0, 1, 1))


@pytest.mark.usefixtures("always_transposed")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3)])
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_transposed_convolution_is_upsampling_and_convolution(batch, frames, size, layout):
    x = torch.randn(batch, 3, frames, *size, dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.randn(4, 3, 3, 3, 3, dtype=torch.float64)
    history = torch.randn(batch, 3, 2, *size, dtype=torch.float64)
    for more in ((), (torch.randn(4, dtype=torch.float64), history), (None, history)):
        y, _ = upsample_conv(x, weight, *more)
        torch.testing.assert_close(y, written_out(x, weight, *more), rtol=1e-12, atol=1e-12)


def test_a_stream_in_pieces_equals_the_whole_by_pytorch():
    x, weight = torch.randn(2, 4, 6, 16, 16), torch.randn(64, 4, 3, 3, 3)
    whole, _ = upsample_conv(x, weight, backend="reference")
    parts, history = [], None
    for piece in x.split([2, 3, 1], dim=2):
        y, history = upsample_conv(piece, weight, None, history, backend="reference")
        parts.append(y)
    assert history.shape == (2, 4, 2, 16, 16)
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("always_transposed")
def test_first_and_second_derivatives():
    x = torch.randn(1, 2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    history = torch.randn(1, 2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *a: upsample_conv(*a)[0], (x, weight, bias, history))
    torch.autograd.gradgradcheck(lambda *a: upsample_conv(*a)[0], (x, weight, bias, history))


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_error_is_that_of_upsampling_and_convolution(autocast):
    x, weight = torch.randn(2, 32, 4, 16, 16).bfloat16(), torch.randn(32, 32, 3, 3, 3).bfloat16()
    exact = written_out(x.double(), weight.double())
    given = weight.float() if autocast else weight
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, plain = (upsample_conv(x, given, backend=backend)[0] for backend in ("auto", "reference"))
    assert ours.dtype == plain.dtype == torch.bfloat16
    # The outputs' own rounding is part of both; a summed weight is rounded to as many bits as a weight.
    assert (ours - exact).square().mean() <= 2 * (plain - exact).square().mean()


def test_only_bfloat16_of_some_size_takes_the_transposed_one():
    weight = torch.zeros(64, 16, 3, 3, 3).bfloat16()
    with_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    assert is_worthwhile(torch.zeros(1, 16, 8, 8, 8).bfloat16(), weight) == with_avx512
    assert not is_worthwhile(torch.zeros(1, 16, 8, 8, 8), weight.float())
    assert not is_worthwhile(torch.zeros(1, 16, 8, 8, 8).half(), weight.half())
    assert not is_worthwhile(torch.zeros(1, 16, 16, 4, 4).bfloat16(), weight[:2])
    assert not is_worthwhile(torch.zeros(1, 64, 1, 8, 8).bfloat16(), weight)


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"weight must have shape \(O, C, 3, 3, 3\); got \(2, 2, 1, 1, 1\)"):
        upsample_conv(torch.zeros(1, 2, 1, 2, 2), torch.zeros(2, 2, 1, 1, 1))
    with pytest.raises(ValueError, match=r"x must have shape \(B, 2, T, H, W\); got \(1, 3, 1, 2, 2\)"):
        upsample_conv(torch.zeros(1, 3, 1, 2, 2), torch.zeros(2, 2, 3, 3, 3))
    with pytest.raises(ValueError, match=r"history must have shape \(1, 2, 2, 2, 2\); got \(1, 2, 2, 4, 4\)"):
        upsample_conv(torch.zeros(1, 2, 1, 2, 2), torch.zeros(2, 2, 3, 3, 3), None, torch.zeros(1, 2, 2, 4, 4))
