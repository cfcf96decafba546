"""What the normalization operators share: their argument, its checks, and the layout the kernels need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlv2v_fast.ops.backends import cpp_refusal

_HALVES = (torch.float16, torch.bfloat16)


class Norm(NamedTuple):
    """A normalization of (B, C, T, H, W): z = (x - mean) / sqrt(var + eps) weight + bias.

    weight, bias: (C,). mean, var: (C,), frozen; None takes the statistics of x, over (B, T, H, W) or, per_frame, over
    (H, W), and gradients pass through them. All have the dtype of x, or are float32 where that has 16 bits.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor | None = None
    var: Tensor | None = None
    eps: float = 1e-5
    per_frame: bool = False


def identity(x: Tensor) -> Norm:
    """The normalization that changes no value of x."""
    one, zero = x.new_ones(x.shape[1]), x.new_zeros(x.shape[1])
    return Norm(one, zero, zero, one, 0.0)


def check_clip(x: Tensor) -> None:
    """ValueError unless x is five-dimensional."""
    if x.dim() != 5:
        raise ValueError(f"x must have shape (B, C, T, H, W); got {tuple(x.shape)}")


def check_norm(name: str, norm: Norm, x: Tensor) -> None:
    """ValueError, naming the argument `name`, unless norm fits x."""
    channels = x.shape[1]
    if (norm.mean is None) != (norm.var is None):
        raise ValueError(f"{name} must have both mean and var or neither")
    if norm.per_frame and norm.mean is not None:
        raise ValueError(f"{name} must measure its statistics per frame; got frozen ones")
    for field in ("weight", "bias", "mean", "var"):
        value = getattr(norm, field)
        if value is not None and value.shape != (channels,):
            raise ValueError(f"{name}.{field} must have shape ({channels},); got {tuple(value.shape)}")
        if value is not None and (value.dtype not in (x.dtype, wide(x.dtype)) or value.device != x.device):
            raise ValueError(
                f"{name}.{field} must be {x.dtype} on {x.device} like x; got {value.dtype} on {value.device}"
            )


def wide(dtype: torch.dtype) -> torch.dtype:
    """What statistics and parameters of a normalization are computed in: float32 for a 16-bit dtype."""
    return torch.float32 if dtype in _HALVES else dtype


def bn_refusal(x: Tensor) -> str | None:
    """Why the C++ kernels cannot take x; None when they can."""
    on_cpu = x.device.type == "cpu"
    if x.dtype not in (torch.float32, torch.float64, *(() if on_cpu else _HALVES)):
        halves = "" if on_cpu else ", float16, bfloat16"
        return f"the C++ kernel takes float32 and float64{halves} on {x.device.type}, not {x.dtype}"
    return cpp_refusal(x)


def dense(x: Tensor) -> tuple[Tensor, torch.memory_format]:
    """x in a layout the kernels read, and the layout, in which every other tensor of the call has to be."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last_3d):
        return x, torch.channels_last_3d
    return x.contiguous(), torch.contiguous_format


def like(x: Tensor, other: Tensor) -> Tensor:
    """other in the layout of the dense tensor x."""
    return other.contiguous(memory_format=dense(x)[1])


def arguments(norm: Norm, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, float]:
    """weight, bias, mean, var, eps as the operators take them for x."""
    dtype = wide(x.dtype)
    weight, bias, mean, var = (None if t is None else t.to(dtype).contiguous() for t in norm[:4])
    assert weight is not None
    assert bias is not None
    return weight, bias, mean, var, norm.eps


def empty_statistics(x: Tensor, per_frame: bool) -> Tensor:
    """A tensor for one number per statistic: (C,), or (B, C, T) per frame."""
    return x.new_empty(x.shape[:3] if per_frame else x.shape[1:2], dtype=wide(x.dtype))


def measured(x: Tensor, given: Tensor | None, per_frame: bool) -> Tensor:
    """The shape of the statistics an operator returns: none where they were given."""
    return empty_statistics(x, per_frame) if given is None else x.new_empty(0, dtype=wide(x.dtype))


def statistics(given: Tensor | None, measured: Tensor) -> Tensor:
    """Those in force."""
    return measured if given is None else given


def second_derivatives(
    backward: Callable[..., Sequence[Tensor]], saved: Sequence[Tensor], grads: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients of the saved tensors given those of backward(*saved), which is made of what PyTorch differentiates."""
    with torch.enable_grad():
        inputs = [t.detach().to(wide(t.dtype)).requires_grad_() for t in saved]
        firsts = backward(*inputs)
        grads = [grad.to(first.dtype) for grad, first in zip(grads, firsts, strict=False)]
        return torch.autograd.grad(firsts, inputs, grads, allow_unused=True)
