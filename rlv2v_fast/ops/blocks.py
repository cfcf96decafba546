"""What R, RPB and URB do between their convolutions: by fused operators, or where these cannot, by their modules."""

from __future__ import annotations

import torch
from torch import Tensor

from rlv2v_fast.ops.backends import choose, is_autocasting, waits_for_launches
from rlv2v_fast.ops.bn import Normalization, bn_refusal, identity
from rlv2v_fast.ops.bn_add_relu import bn_add_relu
from rlv2v_fast.ops.bn_add_relu_pool import bn_add_relu_pool
from rlv2v_fast.ops.bn_relu import bn_relu
from rlv2v_fast.ops.sizes import BLOCK_ELEMENTS
from rlv2v_fast.reference.blocks import (
    norm_add_relu_reference,
    norm_relu_reference,
    pool_reference,
    upsample_reference,
)


def _count(x: Tensor) -> int:
    """Values behind each of the batch statistics of x."""
    return x.numel() // max(x.shape[1], 1)


def is_small(x: Tensor) -> bool:
    """Whether PyTorch's own kernels were measured to be faster on tensors of this size.

    Never while a compiler or exporter traces: the answer would bind the graph to sizes on its side of the rule.
    """
    if x.is_cuda:
        return waits_for_launches(x, BLOCK_ELEMENTS["cuda"])
    limit = BLOCK_ELEMENTS["cpu in 16 bits" if x.dtype.itemsize == 2 else "cpu"]
    return not torch.compiler.is_compiling() and x.device.type == "cpu" and x.numel() < limit


def _route(op: str, backend: str, x: Tensor, *norms: Normalization, skip: Tensor | None = None) -> str:
    """The backend of a call: "auto" leaves small tensors to PyTorch's own kernels."""
    if backend == "auto" and is_small(x):
        return "reference"
    return choose(op, backend, {"cpp": lambda: _cpp_refusal(x, *norms, skip=skip)})


def _cpp_refusal(x: Tensor, *norms: Normalization, skip: Tensor | None = None) -> str | None:
    reasons = (bn_refusal(x), *(norm.why_not(x) for norm in norms))
    if skip is not None and skip.dtype != x.dtype and x.device.type != "cpu":
        # Under autocast a convolution's output has 16 bits and a block's input may have 32.
        return f"the skip is {skip.dtype} and what it is added to {x.dtype}"
    return next((reason for reason in reasons if reason is not None), None)


def _pooled(x: Tensor) -> torch.dtype:
    """The dtype of a pooled x: autocast on a CPU pools, and normalizes what was pooled, in float32."""
    return torch.float32 if x.device.type == "cpu" and is_autocasting(x) and x.dtype.itemsize == 2 else x.dtype


def _alike(x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    """x and skip in the dtype of their sum: under autocast one may have 16 bits and the other 32."""
    dtype = torch.promote_types(x.dtype, skip.dtype)
    return x.to(dtype), skip.to(dtype)


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
    x, skip = _alike(x, skip)
    y, measured, _ = bn_add_relu(x, skip, norm.arguments(x), backend="cpp")
    norm.update(*measured, _count(x))
    return y


def norm_add_relu_pool(x: Tensor, norm: Normalization, skip: Tensor, *, backend: str = "auto") -> Tensor:
    """maxpool(relu(norm(x) + skip)) for x and skip (B, C, T, H, W), to (B, C, T, H // 2, W // 2)."""
    if _route("bn_add_relu_pool", backend, x, norm, skip=skip) == "reference":
        return pool_reference(norm_add_relu_reference(x, norm, skip))
    x, skip = _alike(x, skip)
    y, measured, _ = bn_add_relu_pool(x, skip, norm.arguments(x), identity(x), backend="cpp")
    norm.update(*measured, _count(x))
    return y.to(_pooled(x))


def norm_add_relu_norm(
    x: Tensor, norm: Normalization, skip: Tensor, post_norm: Normalization, *, backend: str = "auto"
) -> Tensor:
    """post_norm(relu(norm(x) + skip)) for x (B, C, T, H, W); skip is alike or of half the height and width."""
    if post_norm.waits:
        return post_norm(norm_add_relu(x, norm, skip, backend=backend))
    if _route("bn_add_relu", backend, x, norm, post_norm, skip=skip) == "reference":
        return post_norm(norm_add_relu(x, norm, skip, backend="reference"))
    x, skip = _alike(x, skip)
    z, measured, post_measured = bn_add_relu(x, skip, norm.arguments(x), post_norm.arguments(x), backend="cpp")
    norm.update(*measured, _count(x))
    post_norm.update(*post_measured, _count(x))
    return z


def norm_add_relu_pool_norm(
    x: Tensor, norm: Normalization, skip: Tensor, post_norm: Normalization, *, backend: str = "auto"
) -> Tensor:
    """post_norm(maxpool(relu(norm(x) + skip))) for x and skip (B, C, T, H, W), to (B, C, T, H // 2, W // 2)."""
    if post_norm.waits:
        return post_norm(norm_add_relu_pool(x, norm, skip, backend=backend))
    if _route("bn_add_relu_pool", backend, x, norm, post_norm, skip=skip) == "reference":
        return post_norm(norm_add_relu_pool(x, norm, skip, backend="reference"))
    x, skip = _alike(x, skip)
    like_pooled = x[..., 1::2, 1::2]
    z, measured, post_measured = bn_add_relu_pool(
        x, skip, norm.arguments(x), post_norm.arguments(like_pooled), backend="cpp"
    )
    norm.update(*measured, _count(x))
    post_norm.update(*post_measured, _count(z))
    return z.to(_pooled(x))
