"""What the normalization operators share: their argument, its checks, and the layout the kernels need."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlv2v_fast.ops.backends import cpp_refusal


class Norm(NamedTuple):
    """A normalization of (B, C, T, H, W): z = (x - mean) / sqrt(var + eps) weight + bias.

    weight, bias: (C,). mean, var: (C,), frozen; None takes the statistics of x, over (B, T, H, W) or, per_frame, over
    (H, W), and gradients pass through them.
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
        if value is not None and (value.dtype != x.dtype or value.device != x.device):
            raise ValueError(
                f"{name}.{field} must be {x.dtype} on {x.device} like x; got {value.dtype} on {value.device}"
            )


def bn_refusal(x: Tensor) -> str | None:
    """Why the C++ kernels cannot take x; None when they can."""
    if x.device.type != "cpu":
        return f"the C++ kernel runs on cpu, not on {x.device.type}"
    if x.dtype not in (torch.float32, torch.float64):
        return f"the C++ kernel takes float32 and float64, not {x.dtype}"
    return cpp_refusal(x)


def dense(x: Tensor) -> tuple[Tensor, torch.memory_format]:
    """x in a layout the kernels read, and the layout, in which every other tensor of the call has to be."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last_3d):
        return x, torch.channels_last_3d
    return x.contiguous(), torch.contiguous_format


def like(x: Tensor, other: Tensor) -> Tensor:
    """other in the layout of the dense tensor x."""
    return other.contiguous(memory_format=dense(x)[1])


def arguments(norm: Norm) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, float]:
    """weight, bias, mean, var, eps as the operators take them."""
    mean, var = norm.mean, norm.var
    return (
        norm.weight.contiguous(),
        norm.bias.contiguous(),
        None if mean is None else mean.contiguous(),
        None if var is None else var.contiguous(),
        norm.eps,
    )


def empty_statistics(x: Tensor, per_frame: bool) -> Tensor:
    """A tensor for one number per statistic: (C,), or (B, C, T) per frame."""
    return x.new_empty(x.shape[:3] if per_frame else x.shape[1:2])


def measured(x: Tensor, given: Tensor | None, per_frame: bool) -> Tensor:
    """The shape of the statistics an operator returns: none where they were given."""
    return empty_statistics(x, per_frame) if given is None else x.new_empty(0)


def statistics(given: Tensor | None, measured: Tensor) -> Tensor:
    """Those in force."""
    return measured if given is None else given
