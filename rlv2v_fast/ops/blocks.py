"""The operators between the convolutions of R, RPB and URB, and the causal convolution they share."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.ops.backends import choose
from rlv2v_fast.ops.bn import Norm, bn_refusal, identity
from rlv2v_fast.ops.bn_add_relu import bn_add_relu
from rlv2v_fast.ops.bn_add_relu_pool import bn_add_relu_pool
from rlv2v_fast.ops.bn_relu import bn_relu
from rlv2v_fast.reference.blocks import (
    norm_add_relu_reference,
    norm_relu_reference,
    pool_reference,
    upsample_reference,
    with_history,
)


def causal_conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, history: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """3D convolution that sees no later frame; cuDNN's or oneDNN's, after padding in time on the left only.

    Args:
        x: (B, C, T, H, W). weight: (O, C, kt, kh, kw), kh and kw odd. bias: (O,) or None.
        history: (B, C, kt-1, H, W), the frames before x; None is zeros.

    Returns:
        (B, O, T, H, W), and the history that the frames after x need (None when kt is 1).

    Raises:
        ValueError: x is not five-dimensional, its channels are not those of weight, or history does not fit.
    """
    check_causal_conv3d(x, weight, history)
    before = weight.shape[2] - 1
    padded = with_history(x, before, history)
    return _conv3d(padded, weight, bias), padded[:, :, padded.shape[2] - before :] if before else None


def check_causal_conv3d(x: Tensor, weight: Tensor, history: Tensor | None) -> None:
    """ValueError unless x (B, C, T, H, W) and its history fit the kernel (O, C, kt, kh, kw)."""
    if x.dim() != 5 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x must have shape (B, {weight.shape[1]}, T, H, W); got {tuple(x.shape)}")
    wanted = (x.shape[0], x.shape[1], weight.shape[2] - 1, x.shape[3], x.shape[4])
    if history is not None and history.shape != wanted:
        raise ValueError(f"history must have shape {wanted}; got {tuple(history.shape)}")


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


class Normalization(Protocol):
    """A normalization that the fused operators can take apart (nn.norm.FusibleNorm); calling it is the reference."""

    @property
    def waits(self) -> bool:
        """Whether its statistics are known only after an exchange, for which the value normalized must be there."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def why_not(self, x: Tensor) -> str | None:
        """Why only calling it will do, or None."""

    def arguments(self, x: Tensor) -> Norm:
        """Its formula's arguments for the input x."""

    def update(self, mean: Tensor | None, var: Tensor | None, count: int) -> None:
        """Take note of the statistics measured over `count` values."""


def _count(x: Tensor) -> int:
    """Values behind each of the batch statistics of x."""
    return x.numel() // max(x.shape[1], 1)


# A fused operator costs more before it starts than PyTorch's own: with fewer numbers in x it was measured to be slower
# (docs/performance.md). GPUs were not measured.
_WORTHWHILE = 2**17


def is_small(x: Tensor) -> bool:
    """Whether PyTorch's own kernels were measured to be faster on tensors of this size."""
    return x.device.type == "cpu" and x.numel() < _WORTHWHILE


def _route(op: str, backend: str, x: Tensor, *norms: Normalization, skip: Tensor | None = None) -> str:
    """The backend of a call: "auto" leaves small tensors to PyTorch's own kernels."""
    if backend == "auto" and is_small(x):
        return "reference"
    return choose(op, backend, {"cpp": lambda: _cpp_refusal(x, *norms, skip=skip)})


def _cpp_refusal(x: Tensor, *norms: Normalization, skip: Tensor | None = None) -> str | None:
    reasons = (bn_refusal(x), *(norm.why_not(x) for norm in norms))
    if skip is not None and skip.dtype != x.dtype:
        # Under autocast a convolution's output has 16 bits and a block's input may have 32.
        return f"the skip is {skip.dtype} and what it is added to {x.dtype}"
    return next((reason for reason in reasons if reason is not None), None)


def norm_relu(x: Tensor, norm: Normalization, *, backend: str = "auto") -> Tensor:
    """relu(norm(x)) for x (B, C, T, H, W)."""
    if _route("bn_relu", backend, x, norm) == "reference":
        return norm_relu_reference(x, norm)
    y, mean, var = bn_relu(x, norm.arguments(x), backend="cpp")
    norm.update(mean, var, _count(x))
    return y


def norm_add_relu(x: Tensor, norm: Normalization, skip: Tensor, *, backend: str = "auto") -> Tensor:
    """relu(norm(x) + skip) for x (B, C, T, H, W); skip is alike or of half the height and width."""
    if _route("bn_add_relu", backend, x, norm, skip=skip) == "reference":
        return norm_add_relu_reference(x, norm, skip if skip.shape == x.shape else upsample_reference(skip))
    y, measured, _ = bn_add_relu(x, skip, norm.arguments(x), backend="cpp")
    norm.update(*measured, _count(x))
    return y


def norm_add_relu_pool(x: Tensor, norm: Normalization, skip: Tensor, *, backend: str = "auto") -> Tensor:
    """maxpool(relu(norm(x) + skip)) for x and skip (B, C, T, H, W), to (B, C, T, H // 2, W // 2)."""
    if _route("bn_add_relu_pool", backend, x, norm, skip=skip) == "reference":
        return pool_reference(norm_add_relu_reference(x, norm, skip))
    y, measured, _ = bn_add_relu_pool(x, skip, norm.arguments(x), identity(x), backend="cpp")
    norm.update(*measured, _count(x))
    return y


def norm_add_relu_norm(
    x: Tensor, norm: Normalization, skip: Tensor, again: Normalization, *, backend: str = "auto"
) -> Tensor:
    """again(relu(norm(x) + skip)) for x (B, C, T, H, W); skip is alike or of half the height and width."""
    if again.waits:
        return again(norm_add_relu(x, norm, skip, backend=backend))
    if _route("bn_add_relu", backend, x, norm, again, skip=skip) == "reference":
        return again(norm_add_relu(x, norm, skip, backend="reference"))
    z, measured, measured_again = bn_add_relu(x, skip, norm.arguments(x), again.arguments(x), backend="cpp")
    norm.update(*measured, _count(x))
    again.update(*measured_again, _count(x))
    return z


def norm_add_relu_pool_norm(
    x: Tensor, norm: Normalization, skip: Tensor, again: Normalization, *, backend: str = "auto"
) -> Tensor:
    """again(maxpool(relu(norm(x) + skip))) for x and skip (B, C, T, H, W), to (B, C, T, H // 2, W // 2)."""
    if again.waits:
        return again(norm_add_relu_pool(x, norm, skip, backend=backend))
    if _route("bn_add_relu_pool", backend, x, norm, again, skip=skip) == "reference":
        return again(norm_add_relu_pool(x, norm, skip, backend="reference"))
    like_pooled = x[..., 1::2, 1::2]
    z, measured, measured_again = bn_add_relu_pool(
        x, skip, norm.arguments(x), again.arguments(like_pooled), backend="cpp"
    )
    norm.update(*measured, _count(x))
    again.update(*measured_again, _count(z))
    return z
