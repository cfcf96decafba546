"""Which pixels of a night scene show warm light, and how well those of two videos agree."""

from __future__ import annotations

import torch
from torch import Tensor

from rlv2v_fast.errors import InputError

# On a scale from 0 (black) to 1: red and green must be brighter than _BRIGHT and exceed blue by more than _WARM.
_BRIGHT, _WARM = 0.5, 0.2


def lit_pixels(video: Tensor) -> Tensor:
    """Where a video shows warm light: min(R, G) > 0.5 and min(R, G) - B > 0.2, colours in [0, 1].

    White and the blue of a bright sky are not warm. The dim glow of light on a street is not bright.

    Args:
        video: (..., 3, H, W) in [-1, 1].

    Returns:
        bool (..., H, W).

    Raises:
        InputError: the frames do not have three channels.
    """
    if video.dim() < 3 or video.shape[-3] != 3:
        raise InputError(f"video must have shape (..., 3, H, W), got {tuple(video.shape)}")
    red, green, blue = ((video.detach() + 1) / 2).unbind(-3)
    yellow = torch.minimum(red, green)
    return (yellow > _BRIGHT) & (yellow - blue > _WARM)


def lit_iou(prediction: Tensor, reference: Tensor) -> Tensor:
    """Intersection over union of the lit pixels of two videos, over all frames of each together.

    Args:
        prediction, reference: (T, 3, H, W) or (B, T, 3, H, W) in [-1, 1].

    Returns:
        float64 scalar, or (B,) for a batch, in [0, 1]; 1 where neither video has a lit pixel.

    Raises:
        InputError: the videos differ in shape or have another.
    """
    if prediction.shape != reference.shape or prediction.dim() not in (4, 5):
        shapes = f"{tuple(prediction.shape)} and {tuple(reference.shape)}"
        raise InputError(f"prediction and reference must have one shape, (T, 3, H, W) or (B, T, 3, H, W), got {shapes}")
    lit, truth = lit_pixels(prediction), lit_pixels(reference)
    both = (lit & truth).sum(dim=(-3, -2, -1)).double()
    either = (lit | truth).sum(dim=(-3, -2, -1)).double()
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(either))
