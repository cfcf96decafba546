"""causal_conv3d: a 3D convolution that sees no later frame, by Winograd's algorithm or PyTorch's fastest route."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.ops.backends import check_backend, choose, cpp_refusal, is_autocasting, why_not_traced
from rlv2v_fast.ops.register import Operator, Values
from rlv2v_fast.ops.sizes import CONV3D_TILES
from rlv2v_fast.reference.blocks import causal_conv3d_reference, upsample_reference, with_history
from rlv2v_fast.reference.precision import accumulation_dtype


def causal_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    history: Tensor | None = None,
    *,
    exact: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """3D convolution that sees no later frame: zeros or a history before in time, zeros around in space.

    On a CPU a 3x3x3 kernel in float32 is computed by Winograd's F(4x4, 3x3) in space, forward and backward, with a
    quarter of the multiplications. The largest error of the result, or of a gradient, is then at most 5e-6 of its
    largest value, for x, weights and gradients drawn from N(0, 1) and scaled by anything. Its rounding is relative to
    the largest value of 6x6 pixels and three frames: where a result sees values that are all 4096 times smaller, or
    where a value is not finite, these 4x4 results are summed as a plain convolution sums them. So NaN and infinity, and
    fill values such as 1e20, reach the results that they reach in a plain convolution. Half types, and what autocast
    convolves in one, are computed in float32 and rounded at the end. The rest is PyTorch's.

    Args:
        x: (B, C, T, H, W), of any strides. weight: (O, C, kt, kh, kw), kh and kw odd. bias: (O,) or None.
        history: (B, C, kt-1, H, W), the frames before x; None is zeros.
        exact: True sums as a plain convolution does.
        backend: "auto" takes Winograd's algorithm where it was measured to be faster, "cpp" wherever it can,
            "reference" never.

    Returns:
        (B, O, T, H, W), and the history that the frames after x need (None when kt is 1). Both are twice
        differentiable. A stream in pieces gives the bits that its clip gives, where "auto" takes Winograd's algorithm.

    Raises:
        ValueError: an argument does not fit; the message names it, the rule and the value.
        RuntimeError: backend="cpp" cannot run the call; the message says why.

    Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks".
    """
    check_backend(backend)
    check_causal_conv3d(x, weight, bias, history)
    if is_fused("causal_conv3d", backend, x, weight, exact=exact):
        y = fused_conv3d(x, weight, bias, history, upsample=False, exact=exact)
        return y, last_frames(x, weight, history)
    before = weight.shape[2] - 1
    padded = with_history(x, before, history)
    return _conv3d(padded, weight, bias), padded[:, :, padded.shape[2] - before :] if before else None


def call_causal_conv3d(
    convolve: Callable[[Tensor], Tensor], before: int, x: Tensor, history: Tensor | None
) -> tuple[Tensor, Tensor]:
    """causal_conv3d by a module that must be called, and knows no history.

    Args:
        convolve: from (B, C, T, H, W) to its causal convolution with zeros before, or what a user put in its place.
        before: frames before x that the convolution sees, at least 1.
        x: (B, C, T, H, W). history: (B, C, before, H, W); None is zeros.

    Returns:
        What convolve makes of x after its history, and the history of the frames after x.
    """
    padded = with_history(x, before, history)
    y = convolve(x) if history is None else convolve(padded)[:, :, before:]
    return y, padded[:, :, padded.shape[2] - before :]


def check_causal_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, history: Tensor | None) -> None:
    """ValueError unless the arguments of causal_conv3d fit each other."""
    if weight.dim() != 5 or weight.shape[3] % 2 == 0 or weight.shape[4] % 2 == 0:
        raise ValueError(f"weight must have shape (O, C, kt, kh, kw), kh and kw odd; got {tuple(weight.shape)}")
    if x.dim() != 5 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x must have shape (B, {weight.shape[1]}, T, H, W); got {tuple(x.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({weight.shape[0]},); got {tuple(bias.shape)}")
    wanted = (x.shape[0], x.shape[1], weight.shape[2] - 1, x.shape[3], x.shape[4])
    if history is not None and history.shape != wanted:
        raise ValueError(f"history must have shape {wanted}; got {tuple(history.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias), ("history", history)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}; got {tensor.device}")
        if tensor is not None and tensor.dtype != x.dtype and not is_autocasting(x):
            raise ValueError(f"{name} must have the dtype of x, {x.dtype}; got {tensor.dtype}")


def fused_conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None, history: Tensor | None, *, upsample: bool, exact: bool = False
) -> Tensor:
    """The fused operator, for a call that is_fused; upsample repeats the pixels of x and history 2x2 before.

    16 bits are computed in float32, as is what autocast would convolve in 16 bits.
    """
    dtype = _result_dtype(x)
    compute = accumulation_dtype(dtype)
    wide = (None if t is None else t.to(compute) for t in (x, weight, bias, history))
    return _OPERATOR(*wide, upsample, exact)[0].to(dtype)


def _result_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which PyTorch would convolve x."""
    return torch.get_autocast_dtype("cpu") if is_autocasting(x) and x.dtype != torch.float64 else x.dtype


def is_fused(op: str, backend: str, x: Tensor, weight: Tensor, *, exact: bool = False, upsample: bool = False) -> bool:
    """Whether a call is the fused operator's.

    It says nothing where "auto" is not: PyTorch's convolution is the intended one there, not a fallback.

    Raises:
        RuntimeError: backend is "cpp" or "triton" and cannot run the call.
    """
    if backend != "auto":
        return choose(op, backend, {"cpp": lambda: why_not_fused(x, weight)}) == "cpp"
    if exact or not is_worthwhile(x, weight, upsample):
        return False
    return why_not_traced() is None and why_not_fused(x, weight) is None


def why_not_fused(x: Tensor, weight: Tensor) -> str | None:
    """Why the C++ operator cannot take a call; None when it can."""
    if weight.shape[2:] != (3, 3, 3):
        return f"the C++ kernel is for 3x3x3 kernels, not {'x'.join(str(int(k)) for k in weight.shape[2:])}"
    if reason := cpp_refusal(x):
        return reason
    if x.device.type != "cpu":
        return f"the C++ kernel runs on cpu, not on {x.device.type}"
    if x.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        return f"the C++ kernel takes float32, float64, float16 and bfloat16, not {x.dtype}"
    return None


def is_worthwhile(x: Tensor, weight: Tensor, upsample: bool = False) -> bool:
    """Whether the fused operator was measured to be faster than PyTorch's convolution, of x as it is or upsampled."""
    if x.dtype == torch.float64:
        return False
    # A traced graph serves all sizes, so that no rule by size may be in it.
    if torch.compiler.is_compiling():
        return True
    side = 2 if upsample else 4
    tiles = -(-x.shape[3] // side) * -(-x.shape[4] // side)
    return tiles >= CONV3D_TILES


def last_frames(x: Tensor, weight: Tensor, history: Tensor | None) -> Tensor:
    """The two frames before those after x."""
    frames = x.shape[2]
    # A traced graph must serve one frame as well as many.
    if torch.compiler.is_compiling() or frames < 2:
        return with_history(x, 2, history)[:, :, frames:]
    last = x[:, :, frames - 2 :]
    # Autograd keeps x and refuses its backward once somebody has written to it. Otherwise a caller may reuse x.
    recording = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return last if recording else last.clone()


def _conv3d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv3d, padded in space only, by the fastest route PyTorch has for the shape."""
    _, _, kt, kh, kw = weight.shape
    if (kt, kh, kw) == (1, 1, 1):
        # A pointwise convolution does not care where the frames are: stack them into one tall image.
        return F.conv2d(x.flatten(2, 3), weight[:, :, 0], bias).unflatten(2, x.shape[2:4])
    # PyTorch's CPU dispatcher leaves oneDNN out for one float32 clip and runs an im2col kernel, measured 5 to 26 times
    # slower (docs/performance.md): give it a batch of two, or a 2D convolution.
    if x.device.type != "cpu" or x.shape[0] != 1 or x.dtype != torch.float32:
        return F.conv3d(x, weight, bias, padding=(0, kh // 2, kw // 2))
    frames = x.shape[2] - kt + 1
    if frames == 1:
        y = F.conv2d(x.flatten(1, 2), weight.flatten(1, 2), bias, padding=(kh // 2, kw // 2))
        return y.unsqueeze(2)
    half = (frames + 1) // 2
    halves = torch.cat([x[:, :, : half + kt - 1], x[:, :, frames - half :]])
    first, second = F.conv3d(halves, weight, bias, padding=(0, kh // 2, kw // 2)).chunk(2)
    # With an odd number of frames both halves hold the middle one.
    return torch.cat([first, second[:, :, 2 * half - frames :]], dim=2)


def _empty(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An empty tensor of the layout that the kernel gives results for x: channels innermost where they are in x."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last_3d)
    return x.new_empty(shape).to(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


def _fake(v: Values) -> tuple[Tensor]:
    scale = 2 if v.upsample else 1
    batch, _, frames, height, width = v.x.shape
    return (_empty(v.x, (batch, v.weight.shape[0], frames, scale * height, scale * width)),)


def _fake_bwd(v: Values) -> tuple[Tensor, ...]:
    return (
        _empty(v.x, v.x.shape) if v.need_x else v.x.new_empty(0),
        v.x.new_empty(v.weight.shape if v.need_weight else (0,)),
        v.x.new_empty(v.weight.shape[:1] if v.need_bias and v.bias is not None else (0,)),
        _empty(v.x, v.history.shape) if v.need_history and v.history is not None else v.x.new_empty(0),
    )


def _formula(v: Values) -> tuple[Tensor]:
    x, history = v.x, v.history
    if v.upsample:
        x, history = upsample_reference(x), None if history is None else upsample_reference(history)
    return (causal_conv3d_reference(x, v.weight, v.bias, history),)


_OPERATOR = Operator("causal_conv3d", fake=_fake, fake_bwd=_fake_bwd, reference=_formula)
