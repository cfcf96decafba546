"""Normalization of a clip and what the residual blocks do right after it, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.reference.blocks import (
    Normalize,
    norm_add_relu_reference,
    norm_relu_reference,
    pool_reference,
    upsample_reference,
)


def bn_stats_reference(x: Tensor, per_frame: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of x (B, C, T, H, W): (C,) over (B, T, H, W), or per frame (B, C, T) over (H, W)."""
    var, mean = torch.var_mean(x, dim=(3, 4) if per_frame else (0, 2, 3, 4), correction=0)
    return mean, var


def bn_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    per_frame: bool = False,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) weight + bias for x (B, C, T, H, W).

    Args:
        x: (B, C, T, H, W). weight, bias: (C,).
        mean, var: (C,), frozen; None takes those of x, over (B, T, H, W) or per frame over (H, W).
    """
    if not per_frame:
        return torch.batch_norm(x, weight, bias, mean, var, mean is None, 0.0, eps, False)
    frames = x.transpose(1, 2).flatten(0, 1)
    # One group a channel. torch.group_norm, unlike F.instance_norm, takes a single pixel and gives the bias for it. An
    # int, because torch.jit.trace makes a tensor of a size, of which ONNX makes no group norm.
    y = torch.group_norm(frames, int(frames.shape[1]), weight, bias, eps)
    return y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def bn_relu_reference(x: Tensor, *norm: Any) -> Tensor:
    """relu(norm(x)); norm are the arguments of bn_reference after x."""
    return norm_relu_reference(x, _normalize(norm))


def bn_add_relu_reference(x: Tensor, skip: Tensor, norm: Sequence[Any], post_norm: Sequence[Any] | None) -> Tensor:
    """post_norm(relu(norm(x) + skip)); a skip of half the height and width is repeated 2x2."""
    if skip.shape != x.shape:
        skip = upsample_reference(skip)
    y = norm_add_relu_reference(x, _normalize(norm), skip)
    return y if post_norm is None else bn_reference(y, *post_norm)


def bn_add_relu_pool_reference(x: Tensor, skip: Tensor, norm: Sequence[Any], post_norm: Sequence[Any]) -> Tensor:
    """post_norm(maxpool(relu(norm(x) + skip))), 1x2x2 windows, odd H and W floored."""
    return bn_reference(pool_reference(norm_add_relu_reference(x, _normalize(norm), skip)), *post_norm)


def _normalize(norm: Sequence[Any]) -> Normalize:
    return lambda x: bn_reference(x, *norm)


def unpool_reference(grad: Tensor, index: Tensor, height: int, width: int) -> Tensor:
    """Gradients (B, C, T, H // 2, W // 2) at the places `index` (0 1 / 2 3) of their 2x2 windows of (B, C, T, H, W)."""
    at = [torch.where(index == place, grad, 0) for place in range(4)]
    rows = [torch.stack(pair, dim=-1).flatten(-2) for pair in (at[:2], at[2:])]
    return F.pad(torch.stack(rows, dim=-2).flatten(-3, -2), (0, width % 2, 0, height % 2))


def bn_add_relu_pool_bwd_reference(
    grad_z: Tensor,
    x: Tensor,
    largest: Tensor,
    index: Tensor,
    norm: Sequence[Any],
    post_norm: Sequence[Any],
    grad_largest: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of bn_add_relu_pool_reference as an expression of what its forward kept.

    Args:
        grad_z: (B, C, T, H // 2, W // 2), the gradient of its result.
        x: (B, C, T, H, W). norm, post_norm: as of the forward.
        largest: like grad_z, the largest value of each window. index: like grad_z, uint8, its place in the window.
        grad_largest: like grad_z, a gradient of largest besides; None for zeros.

    Returns:
        Gradients of x, skip, norm's weight and bias, and post_norm's weight and bias, differentiable in grad_z, x,
        largest, those parameters and grad_largest.
    """
    grad_pooled, *grads_post = _bn_gradients(largest, post_norm, grad_z)
    if grad_largest is not None:
        grad_pooled = grad_pooled + grad_largest
    grad_sum = unpool_reference(torch.where(largest > 0, grad_pooled, 0), index, *x.shape[3:])
    grad_x, *grads_norm = _bn_gradients(x, norm, grad_sum)
    return grad_x, grad_sum, *grads_norm, *grads_post


def _bn_gradients(x: Tensor, norm: Sequence[Any], grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of x, weight and bias of bn_reference."""
    weight, bias, *rest = norm
    pull = torch.func.vjp(lambda x, weight, bias: bn_reference(x, weight, bias, *rest), x, weight, bias)[1]
    return pull(grad)
