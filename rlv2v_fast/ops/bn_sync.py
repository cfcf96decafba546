"""Batch statistics over the batches of all processes of a group, and normalizing by statistics that have gradients.

Every process must ask for the same statistics in the same order: one gather in the forward and, wherever a gradient
passes, one sum in the backward, to which autograd comes in the reverse order of the forward. A process that skips a
forward, or whose loss leaves one out, leaves the others waiting. A batch may be empty, but must be passed through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlv2v_fast.ops.bn import Norm
from rlv2v_fast.ops.bn_stats import bn_stats

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def is_shared(group: ProcessGroup | None = None) -> bool:
    """Whether group (None: all processes) has more than this process in it."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def sync_statistics(x: Tensor, group: ProcessGroup | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of every channel over the x of all processes (Chan et al. 1979).

    Args:
        x: (B, C, T, H, W); B may differ between processes and be zero.
        group: the processes; None is all of them.

    Returns:
        mean, var: (C,), float64 for such an x and float32 otherwise; differentiable to any order, the gradient being
        that of the sum of all processes' losses. count: scalar, the values behind each; where it is zero, mean and
        var are too.
    """
    return _Statistics.apply(x if x.dtype == torch.float64 else x.float(), group)


def norm_by(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Norm:
    """The normalization by mean and var (C,) as a frozen one through whose weight and bias all gradients pass.

    (x - mean) scale + bias, scale = weight / sqrt(var + eps), is (x - m) scale + (bias + (m - mean) scale) for every
    m, and as a frozen m equal to mean costs no precision. So the fused operators, which give no gradients to frozen
    statistics, give these theirs by way of the sums over grad_z and grad_z (x - m) that they have to take anyway.
    """
    scale = weight * (var + eps).rsqrt()
    center = mean.detach()
    return Norm(scale, bias + (center - mean) * scale, center, torch.ones_like(center), 0.0)


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        own = x.new_zeros(1 + 2 * channels, dtype=torch.float64)
        if x.numel():
            own[0] = x.numel() // channels
            own[1:] = torch.cat(bn_stats(x))
        everyone = own.new_empty(dist.get_world_size(group), own.numel())
        dist.all_gather(list(everyone), own, group=group)
        counts, means, variances = everyone.split([1, channels, channels], dim=1)
        count = counts.sum()
        shares = counts / count.clamp_min(1)
        mean = (shares * means).sum(0)
        var = (shares * (variances + (means - mean).square())).sum(0)
        ctx.group, count = group, count.to(x.dtype)
        mean, var = mean.to(x.dtype), var.to(x.dtype)
        ctx.mark_non_differentiable(count)
        ctx.save_for_backward(x, mean, count)
        return mean, var, count

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor, _: Tensor) -> tuple[Tensor, None]:
        """grad_mean / N + 2 (x - mean) grad_var / N, of operations that can be differentiated again."""
        x, mean, count = ctx.saved_tensors
        of_mean, of_var = _Sum.apply(torch.stack([grad_mean, grad_var]), ctx.group) / count.clamp_min(1)
        slope = 2 * of_var
        shift = of_mean - slope * mean
        # One pass over x.
        return torch.addcmul(shift.view(-1, 1, 1, 1), x, slope.view(-1, 1, 1, 1)), None


class _Sum(torch.autograd.Function):
    """Sum over the processes; the gradient, too, is a sum over them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(grad, ctx.group), None
