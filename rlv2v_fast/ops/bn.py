"""What the normalization operators share: their argument, its checks, and the layout the kernels need."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rlv2v_fast.ops.backends import cpp_refusal
from rlv2v_fast.ops.register import Values
from rlv2v_fast.ops.transforms import is_mapped
from rlv2v_fast.reference.bn import bn_reference
from rlv2v_fast.reference.precision import accumulation_dtype

_FUSED = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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


# Mean and biased variance that a normalization measured; (None, None) where it has frozen ones.
Statistics = tuple[Tensor | None, Tensor | None]


def identity(x: Tensor) -> Norm:
    """The normalization that changes no value of x."""
    one, zero = x.new_ones(x.shape[1]), x.new_zeros(x.shape[1])
    return Norm(one, zero, zero, one, 0.0)


class Normalization(Protocol):
    """A normalization that the fused operators can take apart (nn.norm.FusibleNorm); calling it is the reference."""

    @property
    def waits(self) -> bool:
        """Whether its statistics come from other processes too, so that x must be computed before they can be known."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def why_not(self, x: Tensor) -> str | None:
        """Why only calling it will do, or None."""

    def arguments(self, x: Tensor) -> Norm:
        """Its formula's arguments for the input x."""

    def update(self, mean: Tensor | None, var: Tensor | None, count: int) -> None:
        """Move the running statistics towards those measured over `count` values."""


def normalize(x: Tensor, norm: Norm) -> Tensor:
    """norm(x) by PyTorch's own kernels, for a normalization that no fused operator takes in."""
    return bn_reference(x, *norm)


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
        if value is not None and (
            value.dtype not in (x.dtype, accumulation_dtype(x.dtype)) or value.device != x.device
        ):
            raise ValueError(
                f"{name}.{field} must be {x.dtype} on {x.device} like x; got {value.dtype} on {value.device}"
            )


def bn_refusal(x: Tensor) -> str | None:
    """Why the C++ kernels cannot take x; None when they can."""
    if x.dtype not in _FUSED:
        return f"the C++ kernel takes float32, float64, float16 and bfloat16, not {x.dtype}"
    return cpp_refusal(x)


def dense(x: Tensor) -> tuple[Tensor, torch.memory_format]:
    """x in a layout the kernels read, and the layout, in which every other tensor of the call has to be."""
    if not is_mapped() and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last_3d):
        return x, torch.channels_last_3d
    return x.contiguous(), torch.contiguous_format


def arguments(norm: Norm, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, float]:
    """weight, bias, mean, var, eps as the operators take them for x."""
    dtype = accumulation_dtype(x.dtype)
    weight, bias, mean, var = (None if t is None else t.to(dtype).contiguous() for t in norm[:4])
    assert weight is not None
    assert bias is not None
    return weight, bias, mean, var, norm.eps


def measured_by(norm: Norm | None, mean: Tensor, var: Tensor) -> Statistics:
    """mean and var of an operator's results if norm measured them."""
    return (None, None) if norm is None or norm.mean is not None else (mean, var)


def empty_statistics(x: Tensor, per_frame: bool) -> Tensor:
    """A tensor for one number per statistic: (C,), or (B, C, T) per frame."""
    return x.new_empty(x.shape[:3] if per_frame else x.shape[1:2], dtype=accumulation_dtype(x.dtype))


def empty_measured(x: Tensor, given: Tensor | None, per_frame: bool) -> Tensor:
    """A tensor like the statistics an operator returns: one of no elements where they were given."""
    return empty_statistics(x, per_frame) if given is None else x.new_empty(0, dtype=accumulation_dtype(x.dtype))


def bwd_statistics(given: Values, results: Values) -> dict[str, Any]:
    """What a backward operator is told of the statistics: which were used, and whether they were frozen.

    Args:
        given, results: the forward's arguments and results, mean and var, and post_mean and post_var, among them.
    """
    found: dict[str, Any] = {}
    for prefix in ("", "post_"):
        if not hasattr(given, f"{prefix}weight"):
            continue
        found[f"{prefix}frozen"] = frozen = getattr(given, f"{prefix}mean") is not None
        normalizes = getattr(given, f"{prefix}weight") is not None
        source = given if frozen or not normalizes else results
        found |= {f"{prefix}{name}": getattr(source, f"{prefix}{name}") for name in ("mean", "var")}
    return found


def norm_of(values: Values, prefix: str = "") -> Norm:
    """The normalization that a backward operator's arguments describe; statistics that were measured are None again."""
    weight, bias, mean, var, eps, frozen = (
        getattr(values, prefix + name) for name in ("weight", "bias", "mean", "var", "eps", "frozen")
    )
    return Norm(weight, bias, mean if frozen else None, var if frozen else None, eps, values.per_frame)


def layout_of_x(values: Values) -> torch.memory_format:
    """The layout of x, in which the kernels want every other tensor."""
    return dense(values.x)[1]
