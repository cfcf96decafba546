"""Scores of the Figure 1 task: whether backgrounds have the right colour at each time, and digits their shape."""

from __future__ import annotations

import torch
from torch import Tensor

from rlv2v_fast.errors import InputError


def background_accuracy(video: Tensor, background: Tensor, digits: Tensor, palette: Tensor) -> Tensor:
    """The share of frames whose mean background colour is nearest to its true colour.

    Args:
        video: (T, C, H, W) in [-1, 1].
        background: (T,) int64, the index into palette of each frame's true colour.
        digits: (T, H, W) bool, pixels that are not background.
        palette: (N, C), the colours a background may be taken for, in [-1, 1].

    Returns:
        Scalar in [0, 1].

    Raises:
        InputError: a shape does not fit.
    """
    _check(video, digits)
    outside = (~digits).unsqueeze(1).to(video.dtype)
    mean = (video * outside).sum((2, 3)) / outside.sum((2, 3)).clamp_min(1)
    nearest = torch.cdist(mean, palette.to(mean)).argmin(1)
    return (nearest == background.to(nearest.device)).double().mean()


def digit_iou(video: Tensor, digits: Tensor, threshold: float = 0.0) -> Tensor:
    """Intersection over union of the true digits and the pixels bright in every channel.

    Args:
        video: (T, C, H, W) in [-1, 1].
        digits: (T, H, W) bool.
        threshold: a pixel is bright if its darkest channel is above this.

    Returns:
        Scalar in [0, 1], over all frames together.

    Raises:
        InputError: a shape does not fit.
    """
    _check(video, digits)
    bright = video.amin(1) > threshold
    union = (bright | digits).sum()
    return (bright & digits).sum().double() / union.clamp_min(1)


def _check(video: Tensor, digits: Tensor) -> None:
    if video.dim() != 4:
        raise InputError(f"video must have shape (T, C, H, W); got {tuple(video.shape)}")
    if digits.shape != (video.shape[0], *video.shape[2:]) or digits.dtype != torch.bool:
        raise InputError(
            f"digits must be bool {(video.shape[0], *video.shape[2:])}; got {tuple(digits.shape)} of {digits.dtype}"
        )
