"""Networks that follow others: averages for inference, targets of the critics."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def soft_update(target: nn.Module, source: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau source; buffers (running statistics) are copied."""
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.lerp_(new, tau)
    for kept, buffer in zip(target.buffers(), source.buffers(), strict=True):
        kept.copy_(buffer)
