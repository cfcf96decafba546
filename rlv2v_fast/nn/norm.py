"""Normalization layers of the networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rlv2v_fast.nn.plain import register_plain, why_not_plain
from rlv2v_fast.ops.bn import Norm, accumulation_dtype, identity, normalize
from rlv2v_fast.ops.bn_sync import is_shared, norm_by, sync_statistics

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

NORMS = ("batch", "instance")


@register_plain
class FrameInstanceNorm(nn.Module):
    """Normalize each frame and channel of (B, C, T, H, W) over its own pixels, then scale and shift by channel.

    No statistic crosses frames, so it is causal and the same in training, evaluation and streaming.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, Norm(self.weight, self.bias, None, None, self.eps, per_frame=True))


@register_plain
class SyncBatchNorm(nn.BatchNorm3d):
    """nn.BatchNorm3d that in training mode takes its statistics over the batches of all processes of a group.

    Any device and backend of torch.distributed (gloo, nccl). Outputs, gradients and running statistics are those of
    one process that has all the batches and a loss that is the sum of all losses; batches may differ in size, and be
    empty. In eval mode, without torch.distributed and in a group of one it is nn.BatchNorm3d. Its names in a state
    dict are nn.BatchNorm3d's.

    All processes must run their forwards and backwards through the same layers in the same order, or they wait for
    each other forever (ops/bn_sync.py). A single value per channel over all processes is not refused.

    Args:
        num_features, eps, momentum, affine, track_running_stats: as of nn.BatchNorm3d.
        process_group: the processes; None is all of them.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.process_group = process_group

    @classmethod
    def convert(cls, module: nn.Module, process_group: ProcessGroup | None = None) -> nn.Module:
        """Make every nn.BatchNorm3d in module one of these, in place, with the same tensors, mode and hooks.

        Subclasses of nn.BatchNorm3d are left alone. Returns module, or what replaces it where it is one itself.
        """
        if type(module) is nn.BatchNorm3d:
            converted = cls.__new__(cls)
            converted.__dict__ = module.__dict__ | {"process_group": process_group}
            return converted
        for name, child in module.named_children():
            setattr(module, name, cls.convert(child, process_group))
        return module

    @property
    def exchanges(self) -> bool:
        """Whether a forward, as things stand, exchanges statistics."""
        return self.training and is_shared(self.process_group)

    def forward(self, x: Tensor) -> Tensor:
        """Like x, (B, C, T, H, W)."""
        if not self.exchanges:
            return super().forward(x)
        self._check_input_dim(x)
        norm = FusibleNorm(self)
        y = normalize(x, norm.arguments(x))
        norm.update(None, None, 0)
        return y


def make_norm(kind: str, channels: int) -> nn.Module:
    """The normalization named kind for `channels` channels of (B, C, T, H, W); ValueError for another name."""
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    if kind == "instance":
        return FrameInstanceNorm(channels)
    raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {kind!r}")


class FusibleNorm:
    """A normalization module as the fused operators see it: its formula's arguments, and its running statistics.

    Called, it is the module. `why_not` says why only that will do, or is None.

    Args:
        module: any module; nn.BatchNorm3d, SyncBatchNorm, FrameInstanceNorm and nn.Identity themselves can be fused.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        # Mean, variance and count of all processes, once they have been asked for.
        self._exchanged: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.module(x)

    @property
    def waits(self) -> bool:
        """Whether its statistics come from other processes too, so that x must be computed before they can be known."""
        return isinstance(self.module, SyncBatchNorm) and self.module.exchanges

    def why_not(self, x: Tensor) -> str | None:
        """Why x must go through the module itself; None when it can be fused."""
        module = self.module
        if reason := why_not_plain(module, nn.BatchNorm3d, SyncBatchNorm, FrameInstanceNorm, nn.Identity):
            return reason
        if isinstance(module, nn.BatchNorm3d) and (module.running_mean is None) != (module.running_var is None):
            return "the normalization has only one of its running statistics"
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.dtype not in (x.dtype, accumulation_dtype(x.dtype)):
                return f"the normalization is {tensor.dtype} and its input {x.dtype}"
        return None

    def arguments(self, x: Tensor) -> Norm:
        """Its arguments for the input x.

        Raises:
            ValueError: batch statistics of a single value per channel are asked for, as nn.BatchNorm3d does.
        """
        module, channels = self.module, x.shape[1]
        if isinstance(module, FrameInstanceNorm):
            return Norm(module.weight, module.bias, None, None, module.eps, True)
        if isinstance(module, nn.Identity):
            return identity(x)
        assert isinstance(module, nn.BatchNorm3d)
        weight = x.new_ones(channels) if module.weight is None else module.weight
        bias = x.new_zeros(channels) if module.bias is None else module.bias
        if not module.training and module.running_mean is not None:
            return Norm(weight, bias, module.running_mean, module.running_var, module.eps)
        if isinstance(module, SyncBatchNorm) and module.exchanges:
            mean, var, count = sync_statistics(x, module.process_group)
            self._exchanged = mean.detach(), var.detach(), count
            return norm_by(mean, var, weight, bias, module.eps)
        if x.numel() == channels:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
        return Norm(weight, bias, None, None, module.eps)

    def update(self, mean: Tensor | None, var: Tensor | None, count: int) -> None:
        """Move the running statistics, as PyTorch does, to the mean and biased variance measured of `count` values.

        Statistics that were exchanged take the place of these.
        """
        module = self.module
        if not isinstance(module, nn.BatchNorm3d) or not module.training or not module.track_running_stats:
            return
        if module.num_batches_tracked is not None:
            module.num_batches_tracked.add_(1)
        if module.running_mean is None or module.running_var is None:
            return
        dtype = module.running_mean.dtype
        # A tensor of the counter's reciprocal, which unlike a float does not have to be read here.
        share: float | Tensor
        if module.momentum is not None:
            share = module.momentum
        elif module.num_batches_tracked is not None:
            share = module.num_batches_tracked.to(dtype).reciprocal()
        else:
            share = 0.0
        unbias: float | Tensor
        if self._exchanged is not None:
            mean, var, total = (t.to(dtype) for t in self._exchanged)
            # Nor does the count of all processes have to be read.
            unbias, share = total / (total - 1).clamp_min(1), share * (total > 0).to(dtype)
        elif mean is None or var is None or count == 0:
            return
        else:
            unbias = count / max(count - 1, 1)
        module.running_mean.lerp_(mean.to(dtype), share)
        module.running_var.lerp_((var * unbias).to(dtype), share)


def why_not_foldable(conv: nn.Module, kind: type[nn.Module], norm: nn.BatchNorm3d) -> str | None:
    """Why fold(conv, norm) would change what the two compute, conv being of this kind; None where it would not."""
    if reason := why_not_plain(conv, kind) or why_not_plain(norm, nn.BatchNorm3d, SyncBatchNorm):
        return reason
    if norm.training:
        return "it is in training mode, in which it uses the statistics of the batch; call eval() first"
    if norm.running_mean is None or norm.running_var is None:
        return "it has no running statistics"
    return None


@torch.no_grad()
def fold(conv: nn.Conv3d, norm: nn.BatchNorm3d) -> None:
    """Give conv the weight and bias with which it computes norm(conv(x)) by the running statistics.

    The caller has asked why_not_foldable.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1, 1)
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=conv.weight.requires_grad)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=conv.weight.requires_grad)


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Run modules in eval mode (frozen running statistics), then restore each one's mode."""
    before = [(module, module.training) for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.train(training)
