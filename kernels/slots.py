"""The memory layout of a ConvLSTM's convolution inputs. No Triton here: fake kernels use it."""

from __future__ import annotations

from torch import Tensor

_ALIGNMENT_BYTES = 16


def padded_channels(channels: int, hidden: int, itemsize: int) -> int:
    """Channels that x takes in a slot: C, and zeros until a pixel of x and h is a whole number of 16 bytes."""
    unit = _ALIGNMENT_BYTES // itemsize
    return (channels + hidden + unit - 1) // unit * unit - hidden


def channels_first(frames: Tensor) -> Tensor:
    """(N, H, W, C) memory seen as a channels_last (N, C, H, W)."""
    return frames.permute(0, 3, 1, 2)
