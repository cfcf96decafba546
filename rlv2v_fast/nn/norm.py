"""Normalization layers of the networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NORMS = ("batch", "instance")


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
        frames = x.transpose(1, 2).flatten(0, 1)
        # One group a channel. torch.group_norm, unlike F.instance_norm, takes a single pixel and gives the bias for it.
        y = torch.group_norm(frames, frames.shape[1], self.weight, self.bias, self.eps)
        return y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def make_norm(kind: str, channels: int) -> nn.Module:
    """The normalization named kind for `channels` channels of (B, C, T, H, W); ValueError for another name."""
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    if kind == "instance":
        return FrameInstanceNorm(channels)
    raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {kind!r}")


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
