"""causal_conv3d and upsample_conv by the fused operator: against float64, on awkward inputs, and its derivatives."""

import pytest
import torch

from rlv2v_fast import extension
from rlv2v_fast.ops.causal_conv3d import causal_conv3d, is_worthwhile
from rlv2v_fast.ops.upsample_conv import upsample_conv
from rlv2v_fast.reference.blocks import causal_conv3d_reference, upsample_reference

needs_cpp = pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu()))
LAST = torch.channels_last_3d
# Clips of (B, C, T, H, W) and every way in which their numbers may lie.
LAYOUTS = {
    "contiguous": lambda *size: torch.randn(size),
    "channels_last": lambda *size: torch.randn(size).contiguous(memory_format=LAST),
    "video": lambda b, c, t, h, w: torch.randn(b, t, c, h, w).transpose(1, 2),
    "every second column": lambda b, c, t, h, w: torch.randn(b, c, t, h, 2 * w)[..., ::2],
    "expanded": lambda b, c, t, h, w: torch.randn(b, c, 1, 1, 1).expand(b, c, t, h, w),
}
# (B, T, C, O, H, W): one of everything, odd sizes, more tiles and frames than a block has.
SIZES = [(1, 1, 1, 1, 1, 1), (2, 3, 5, 7, 6, 9), (1, 4, 3, 17, 18, 13), (1, 19, 9, 20, 12, 70)]


def written_out(x, weight, bias, history, upsample=False):
    """The formula in float64."""
    x, weight, bias, history = (None if t is None else t.double() for t in (x, weight, bias, history))
    if upsample:
        x, history = upsample_reference(x), None if history is None else upsample_reference(history)
    return causal_conv3d_reference(x, weight, bias, history)


def fused(x, weight, bias, history, upsample=False, **options):
    operator = upsample_conv if upsample else causal_conv3d
    return operator(x, weight, bias, history, backend="cpp", **options)[0]


def draw(size, layout="contiguous", *, upsample=False, with_history=True):
    """x, weight, bias and history for a convolution of that size."""
    b, t, c, o, h, w = size
    height, width = ((h + 1) // 2, (w + 1) // 2) if upsample else (h, w)
    history = torch.randn(b, c, 2, height, width) if with_history else None
    return LAYOUTS[layout](b, c, t, height, width), torch.randn(o, c, 3, 3, 3), torch.randn(o), history


def error(found, exact):
    """The largest error over the largest value."""
    assert found.shape == exact.shape
    return ((found - exact).abs().max() / exact.abs().max()).item()


@needs_cpp
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("with_history", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_result_and_gradients_are_those_of_float64(size, layout, with_history, exact):
    given = [None if t is None else t.requires_grad_() for t in draw(size, layout, with_history=with_history)]
    leaves = [t for t in given if t is not None]
    found = fused(*given, exact=exact)
    wanted = written_out(*given)
    grad = torch.randn_like(wanted)
    found_grads = torch.autograd.grad(found, leaves, grad.float())
    assert error(found, wanted) <= 5e-6
    assert all(
        error(ours, exactly) <= 5e-6
        for ours, exactly in zip(found_grads, torch.autograd.grad(wanted, leaves, grad), strict=True)
    )


@needs_cpp
@pytest.mark.parametrize("with_history", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "every second column"])
@pytest.mark.parametrize("size", SIZES[1:])
def test_upsampled_result_and_gradients_are_those_of_float64(size, layout, with_history):
    given = draw(size, layout, upsample=True, with_history=with_history)
    leaves = [t.requires_grad_() for t in given if t is not None]
    found, wanted = fused(*given, upsample=True), written_out(*given, upsample=True)
    grad = torch.randn_like(wanted)
    assert error(found, wanted) <= 5e-6
    for ours, exactly in zip(
        torch.autograd.grad(found, leaves, grad.float()), torch.autograd.grad(wanted, leaves, grad), strict=True
    ):
        assert error(ours, exactly) <= 5e-6


@needs_cpp
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 3), (1, 3)])
def test_each_gradient_alone_is_that_of_all(wanted):
    given = draw((2, 3, 4, 5, 6, 7))
    leaves = [t.clone().requires_grad_() for t in given]
    together = torch.autograd.grad(fused(*leaves).square().sum(), leaves)
    alone = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(given)]
    found = torch.autograd.grad(fused(*alone).square().sum(), [alone[i] for i in wanted])
    assert all(torch.equal(found[k], together[i]) for k, i in enumerate(wanted))


@needs_cpp
@pytest.mark.parametrize("upsample", [False, True])
def test_first_and_second_derivatives(upsample):
    leaves = [t.double().requires_grad_() for t in draw((1, 2, 2, 2, 4, 5), upsample=upsample)]
    assert torch.autograd.gradcheck(lambda *t: fused(*t, upsample), leaves)
    assert torch.autograd.gradgradcheck(lambda *t: fused(*t, upsample), leaves)


@needs_cpp
@pytest.mark.parametrize(("layout", "upsample"), [("contiguous", False), ("channels_last", True)])
def test_opcheck(layout, upsample):
    x, weight, bias, history = draw((2, 3, 3, 4, 4, 6), layout, upsample=upsample)
    operators = torch.ops.rlv2v_fast
    more = (None, None) if upsample else (bias.requires_grad_(), history.requires_grad_())
    torch.library.opcheck(
        operators.causal_conv3d_fwd, (x.requires_grad_(), weight.requires_grad_(), *more, upsample, False)
    )
    y = operators.causal_conv3d_fwd(x, weight, bias, history, upsample, False).detach()
    for needs in ((True, True, True, True), (False, False, True, True)):
        arguments = (torch.randn_like(y), x, weight, bias, history, upsample, False, *needs)
        torch.library.opcheck(operators.causal_conv3d_bwd, arguments)


@needs_cpp
@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_stream_in_pieces_is_the_clip_bit_for_bit(layout, upsample):
    x, weight, bias, _ = draw((2, 23, 5, 9, 12, 14), layout, upsample=upsample)
    operator = upsample_conv if upsample else causal_conv3d
    whole, history = operator(x, weight, bias)
    pieces, state = [], None
    for piece in x.split([1, 2, 17, 1, 2], dim=2):
        y, state = operator(piece, weight, bias, state)
        pieces.append(y)
    assert torch.equal(torch.cat(pieces, 2), whole)
    assert torch.equal(state, history)


@needs_cpp
def test_frames_of_zeros_as_history_change_no_bit():
    x, weight, bias, history = draw((1, 3, 4, 5, 8, 8))
    assert torch.equal(fused(x, weight, bias, None), fused(x, weight, bias, torch.zeros_like(history)))


@needs_cpp
def test_more_threads_change_no_bit():
    given = [t.requires_grad_() for t in draw((1, 3, 20, 40, 21, 22))]

    def results():
        y = fused(*given)
        return y, *torch.autograd.grad(y.sin().sum(), given)

    threads = torch.get_num_threads()
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(results())
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@needs_cpp
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_result_lies_in_memory_as_x_does(layout):
    x, weight, bias, _ = draw((2, 3, 4, 6, 5, 6), layout)
    y = fused(x.requires_grad_(), weight, bias, None)
    grad = torch.autograd.grad(y.sum(), x)[0]
    for tensor in (y, grad):
        assert tensor.is_contiguous() == (layout == "contiguous")
        assert tensor.is_contiguous(memory_format=LAST) == (layout == "channels_last")


@needs_cpp
def test_history_may_lie_otherwise_than_x():
    x, weight, bias, history = draw((2, 3, 9, 4, 6, 10))
    other = history.contiguous(memory_format=LAST)
    assert torch.equal(fused(x, weight, bias, other), fused(x, weight, bias, history))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_frame_that_is_written_anew_leaves_the_history_alone(backend):
    x, weight = torch.randn(1, 3, 4, 8, 8), torch.randn(4, 3, 3, 3, 3)
    for operator in (causal_conv3d, upsample_conv):
        _, history = operator(x.clone(), weight, backend=backend)
        buffer = x.clone()
        _, kept = operator(buffer, weight, backend=backend)
        buffer.zero_()
        assert torch.equal(kept, history)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_an_empty_batch_gives_empty_results_and_zeros(backend):
    x, weight, bias, history = (t.requires_grad_() for t in draw((0, 2, 3, 4, 5, 5)))
    y, after = causal_conv3d(x, weight, bias, history, backend=backend)
    assert y.shape == (0, 4, 2, 5, 5)
    assert after.shape == (0, 3, 2, 5, 5)
    grads = torch.autograd.grad(y.sum(), (x, weight, bias, history))
    assert not grads[1].any()
    assert not grads[2].any()


@needs_cpp
@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(0, 0), (3, 4), (7, 7)])
def test_what_is_not_finite_spreads_as_in_a_plain_sum(place, value, upsample):
    x, weight, bias, _ = draw((1, 4, 9, 5, 16, 16), upsample=upsample)
    x[0, 1, 1, place[0], place[1]] = value
    given = [t.requires_grad_() for t in (x, weight, bias)]
    found, wanted = fused(*given, None, upsample), written_out(*given, None, upsample)
    grad = torch.randn_like(wanted)
    grad[0, 2, 2, 5, 6] = value
    pairs = [(found, wanted)]
    pairs += zip(torch.autograd.grad(found, given, grad.float()), torch.autograd.grad(wanted, given, grad), strict=True)
    for ours, exactly in pairs:
        finite = exactly.isfinite()
        assert torch.equal(ours.isnan(), exactly.isnan())
        assert torch.equal(ours.isposinf(), exactly.isposinf())
        torch.testing.assert_close(ours[finite], exactly[finite].float(), rtol=1e-4, atol=1e-4)


@needs_cpp
@pytest.mark.parametrize("size", [4, 16, 24])
@pytest.mark.parametrize("value", [1e20, 3e38, 1e5])
def test_a_fill_value_spoils_no_pixel_that_does_not_see_it(value, size):
    x, weight, bias, _ = draw((1, 4, 3, 5, size, size))
    x[0, 1, 1, 1, 2] = value
    found, wanted = fused(x, weight, bias, None), written_out(x, weight, bias, None)
    sees_none = wanted.abs() < 1e3
    assert sees_none.sum() > sees_none.numel() / 2
    assert (found - wanted)[sees_none].abs().max() <= 1e-4
    piece = fused(x[:, :, 1:], weight, bias, torch.zeros_like(x[:, :, :2]))
    assert torch.equal(piece[:, :, 2:], found[:, :, 3:])


@needs_cpp
def test_one_large_tile_leaves_the_others_their_bits():
    x, weight, bias, _ = draw((1, 2, 3, 5, 32, 32))
    clean = fused(x, weight, bias, None)
    x[..., 2, 2] *= 1e7
    assert torch.equal(fused(x, weight, bias, None)[..., 8:], clean[..., 8:])


@needs_cpp
@pytest.mark.parametrize("magnitude", [1e-6, 1e-2, 255.0, 1e4])
def test_the_error_scales_with_the_input(magnitude):
    x, weight, _, history = draw((1, 4, 16, 16, 16, 16))
    x, history = x * magnitude, history * magnitude
    assert error(fused(x, weight, None, history), written_out(x, weight, None, history)) <= 5e-6


@needs_cpp
@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_rounded_once(dtype, upsample):
    x, weight, bias, history = (t.to(dtype).requires_grad_() for t in draw((1, 3, 9, 5, 8, 8), upsample=upsample))
    operator = upsample_conv if upsample else causal_conv3d
    y, _ = operator(x, weight, bias, history, backend="cpp")
    wanted = written_out(x, weight, bias, history, upsample)
    assert y.dtype == dtype
    assert (y - wanted).abs().max() <= torch.finfo(dtype).eps * wanted.abs().max()
    grads = torch.autograd.grad(y, (x, weight, bias, history), torch.ones_like(y))
    assert all(grad.dtype == dtype for grad in grads)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = operator(x.float(), weight.float(), bias.float(), history.float(), backend="cpp")
    assert y.dtype == torch.bfloat16
    assert (y - wanted).abs().max() <= torch.finfo(torch.bfloat16).eps * wanted.abs().max()


@needs_cpp
def test_cpp_says_why_it_cannot():
    x, weight = torch.zeros(1, 2, 2, 4, 4), torch.zeros(3, 2, 3, 3, 3)
    with pytest.raises(RuntimeError, match="is for 3x3x3 kernels, not 1x1x1"):
        causal_conv3d(x, torch.zeros(3, 2, 1, 1, 1), backend="cpp")
    with pytest.raises(RuntimeError, match=r"takes float32, float64, float16 and bfloat16, not torch\.complex64"):
        causal_conv3d(x.to(torch.complex64), weight.to(torch.complex64), backend="cpp")
    with pytest.raises(RuntimeError, match=r"cannot run upsample_conv: .* not on meta"):
        upsample_conv(x.to("meta"), weight.to("meta"), backend="cpp")
    with pytest.raises(RuntimeError, match="this operator has no such kernel"):
        causal_conv3d(x, weight, backend="triton")
    with pytest.raises(ValueError, match="backend must be one of"):
        causal_conv3d(x, weight, backend="fastest")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 4, 5, 5)}, r"x must have shape \(B, 2, T, H, W\); got \(2, 4, 5, 5\)"),
        ({"x": torch.zeros(1, 3, 4, 5, 5)}, r"x must have shape \(B, 2, T, H, W\); got \(1, 3, 4, 5, 5\)"),
        ({"weight": torch.zeros(3, 2, 3, 2, 3)}, r"kh and kw odd; got \(3, 2, 3, 2, 3\)"),
        ({"bias": torch.zeros(2)}, r"bias must have shape \(3,\); got \(2,\)"),
        ({"history": torch.zeros(1, 2, 1, 5, 5)}, r"history must have shape \(1, 2, 2, 5, 5\); got \(1, 2, 1, 5, 5\)"),
        (
            {"weight": torch.zeros(3, 2, 3, 3, 3).double()},
            r"weight must have the dtype of x, .*; got torch\.float64",
        ),
        ({"history": torch.zeros(1, 2, 2, 5, 5, device="meta")}, "history must be on the device of x, cpu; got meta"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    given = {"x": torch.zeros(1, 2, 4, 5, 5), "weight": torch.zeros(3, 2, 3, 3, 3), "bias": None, "history": None}
    with pytest.raises(ValueError, match=message):
        causal_conv3d(**(given | change))


def test_auto_goes_by_what_was_measured(monkeypatch):
    monkeypatch.undo()  # the fixture that fuses at any size
    weight = torch.zeros(16, 16, 3, 3, 3)
    clip = torch.zeros(1, 16, 8, 32, 32)
    assert is_worthwhile(clip, weight)
    # A stream must take the kernel that its clip takes.
    assert is_worthwhile(clip[:, :, :1], weight) == is_worthwhile(clip, weight)
    assert not is_worthwhile(clip.double(), weight.double())
    assert is_worthwhile(clip.bfloat16(), weight.bfloat16())
    assert not is_worthwhile(clip[..., :4, :4], weight)
    assert is_worthwhile(clip[..., :4, :4], weight, upsample=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (2, 1, 3), (1, 3, 3)])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("batch", [1, 2])
def test_pytorchs_routes_equal_the_reference(batch, frames, kernel, bias):
    x = torch.randn(batch, 3, frames, 5, 6)
    weight = torch.randn(4, 3, *kernel)
    offset = torch.randn(4) if bias else None
    for history in (None, torch.randn(batch, 3, kernel[0] - 1, 5, 6)):
        got, _ = causal_conv3d(x, weight, offset, history, backend="reference")
        torch.testing.assert_close(got.double(), written_out(x, weight, offset, history), rtol=1e-5, atol=1e-5)


def test_gradients_on_pytorchs_route_for_a_single_clip():
    x = torch.randn(1, 2, 3, 4, 4, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, 3, requires_grad=True)
    ours = torch.autograd.grad(causal_conv3d(x, weight, backend="reference")[0].square().sum(), (x, weight))
    plain = torch.autograd.grad(causal_conv3d_reference(x, weight, None).square().sum(), (x, weight))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
