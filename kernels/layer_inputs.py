"""What a ConvLSTM layer takes, and how its convolutions' inputs lie in memory. No Triton here: fake kernels use it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

_ALIGNMENT_BYTES = 16


class LayerInputs(NamedTuple):
    """Everything that the results of a layer depend on, in the order of the operators' arguments."""

    x: Tensor  # (B, T, C, H, W)
    weight: Tensor  # (4K, C+K, kh, kw)
    bias: Tensor | None  # (4K,)
    h0: Tensor  # (B, K, H, W)
    c0: Tensor  # (B, K, H, W)
    peephole: Tensor | None = None  # (3, K)
    lengths: Tensor | None = None  # (B,) integers in [0, T]


def padded_channels(channels: int, hidden: int, itemsize: int) -> int:
    """Channels of a convolution input before h: C, and zeros until a pixel with its h is a multiple of 16 bytes."""
    unit = _ALIGNMENT_BYTES // itemsize
    return (channels + hidden + unit - 1) // unit * unit - hidden


def channels_first(frames: Tensor) -> Tensor:
    """(N, H, W, C) memory seen as a channels_last (N, C, H, W)."""
    return frames.permute(0, 3, 1, 2)
