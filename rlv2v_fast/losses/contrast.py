"""The contrast loss: what is brighter than its surroundings should not be translated to be darker."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# Side and stride of the windows, in pixels, and C3 of SSIM for intensities in [0, 1].
_WINDOW, _STRIDE = 7, 2
_FLOOR = 0.5 * 0.03**2
# Keeps the root's gradient finite where a window is flat.
_TINY = 1e-8


def contrast_loss(video: Tensor, translation: Tensor) -> Tensor:
    """How much contrast a translation inverts: mean max(0, -s), s = (cov(a, b) + C3) / (std(a) std(b) + C3).

    s is that of the intensities a and b in each 7x7 window. Without pairs, a chequered floor and its negative look
    equally right to a discriminator, and the cycle loss keeps whichever the generators chose. Contrast may weaken or
    vanish at no cost, as it often does at night, but not invert. A window with a pixel that changes against its frame's
    trend, such as a light that comes on while night falls, costs nothing: without that exemption lights stayed dark.

    Args:
        video, translation: (B, T, C, H, W) in [-1, 1], H and W at least 7; the intensity is the mean of the channels.

    Returns:
        float32 scalar in [0, 1]: 0 where no window's contrast is inverted, 1 where each is.

    Raises:
        ValueError: the shapes differ, or are not of such frames.

    Source: the structure term of SSIM, Wang et al. 2004, "Image Quality Assessment", eq. 10. The limit to
        negative values and the exemption are ours.
    """
    if video.shape != translation.shape or video.dim() != 5 or min(video.shape[3:]) < _WINDOW:
        shapes = f"{tuple(video.shape)} and {tuple(translation.shape)}"
        raise ValueError(f"video and translation must have one shape (B, T, C, H >= 7, W >= 7); got {shapes}")
    a, b = ((clip.flatten(0, 1).float().mean(1, keepdim=True) + 1) / 2 for clip in (video, translation))
    mean_a, mean_b = _means(a), _means(b)
    variance_a, variance_b = ((_means(x * x) - m * m).clamp_min(0) + _TINY for x, m in ((a, mean_a), (b, mean_b)))
    covariance = _means(a * b) - mean_a * mean_b
    structure = (covariance + _FLOOR) / ((variance_a * variance_b).sqrt() + _FLOOR)
    return ((-structure).clamp_min(0) * _follows_trend(b.detach() - a)).mean()


def _follows_trend(change: Tensor) -> Tensor:
    """1 for windows of (N, 1, H, W) in which no pixel changes against its frame's mean change; 0 for others."""
    trend = change.mean(dim=(1, 2, 3), keepdim=True).sign()
    return (F.max_pool2d(-trend * change, _WINDOW, _STRIDE) <= 0).float()


def _means(frames: Tensor) -> Tensor:
    return F.avg_pool2d(frames, _WINDOW, _STRIDE)
