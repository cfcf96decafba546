"""Normalization of a clip and what the residual blocks do right after it, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.reference.blocks import pool_reference, upsample_reference


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
    # One group a channel. torch.group_norm, unlike F.instance_norm, takes a single pixel and gives the bias for it.
    y = torch.group_norm(frames, frames.shape[1], weight, bias, eps)
    return y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def bn_relu_reference(x: Tensor, *norm: object) -> Tensor:
    """relu(norm(x)); norm are the arguments of bn_reference after x."""
    return F.relu(bn_reference(x, *norm))  # type: ignore[arg-type]


def bn_add_relu_reference(x: Tensor, skip: Tensor, norm: tuple, again: tuple | None) -> Tensor:
    """again(relu(norm(x) + skip)); a skip of half the height and width is repeated 2x2."""
    if skip.shape != x.shape:
        skip = upsample_reference(skip)
    y = F.relu(bn_reference(x, *norm) + skip)
    return y if again is None else bn_reference(y, *again)


def bn_add_relu_pool_reference(x: Tensor, skip: Tensor, norm: tuple, again: tuple) -> Tensor:
    """again(maxpool(relu(norm(x) + skip))), 1x2x2 windows, odd H and W floored."""
    return bn_reference(pool_reference(F.relu(bn_reference(x, *norm) + skip)), *again)


def unpool_reference(grad: Tensor, index: Tensor, height: int, width: int) -> Tensor:
    """Gradients (B, C, T, H // 2, W // 2) at the places `index` (0 1 / 2 3) of their 2x2 windows of (B, C, T, H, W)."""
    at = [torch.where(index == place, grad, 0) for place in range(4)]
    rows = [torch.stack(pair, dim=-1).flatten(-2) for pair in (at[:2], at[2:])]
    return F.pad(torch.stack(rows, dim=-2).flatten(-3, -2), (0, width % 2, 0, height % 2))


def bn_add_relu_pool_bwd_reference(
    grad_z: Tensor, x: Tensor, largest: Tensor, index: Tensor, norm: tuple, again: tuple
) -> tuple[Tensor, ...]:
    """Gradients of x, skip, weight, bias and again's weight, bias; differentiable in grad_z, x, largest and those."""
    of_again = torch.autograd.grad(bn_reference(largest, *again), (largest, *again[:2]), grad_z, create_graph=True)
    grad_sum = unpool_reference(torch.where(largest > 0, of_again[0], 0), index, *x.shape[3:])
    of_norm = torch.autograd.grad(bn_reference(x, *norm), (x, *norm[:2]), grad_sum, create_graph=True)
    return of_norm[0], grad_sum, *of_norm[1:], *of_again[1:]
