"""DiffAugment: random, differentiable changes to a discriminator's input, so that it does not memorize few videos.

All frames of a clip are changed alike, which keeps its motion.

Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training".
"""

from __future__ import annotations

import torch
from torch import Tensor

POLICIES = ("translation", "cutout", "brightness")


def diff_augment(video: Tensor, policies: tuple[str, ...], generator: torch.Generator) -> Tensor:
    """The clips with random changes.

    Args:
        video: (B, T, C, H, W) in [-1, 1].
        policies: of "translation" (up to 1/8 of each side, black fills), "cutout" (a black square of half the side)
            and "brightness" (an offset in [-0.5, 0.5)).
        generator: CPU generator the parameters are drawn from.

    Returns:
        (B, T, C, H, W), differentiable in video.
    """
    for policy in policies:
        if policy not in POLICIES:
            raise ValueError(f"policies must be of {', '.join(POLICIES)}; got {policy!r}")
        video = torch.stack([_APPLY[policy](clip, generator) for clip in video])
    return video


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _translate(clip: Tensor, generator: torch.Generator) -> Tensor:
    height, width = clip.shape[-2:]
    dy, dx = (_integer(-(size // 8), size // 8, generator) for size in (height, width))
    padded = torch.nn.functional.pad(clip, (max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)), value=-1.0)
    return padded[..., max(-dy, 0) : max(-dy, 0) + height, max(-dx, 0) : max(-dx, 0) + width]


def _cutout(clip: Tensor, generator: torch.Generator) -> Tensor:
    height, width = clip.shape[-2:]
    top = _integer(-(height // 4), height - height // 4, generator)
    left = _integer(-(width // 4), width - width // 4, generator)
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[max(top, 0) : max(top + height // 2, 0), max(left, 0) : max(left + width // 2, 0)] = True
    return clip.masked_fill(hole.to(clip.device), -1.0)


def _brighten(clip: Tensor, generator: torch.Generator) -> Tensor:
    return clip + (float(torch.rand((), generator=generator)) - 0.5)


_APPLY = {"translation": _translate, "cutout": _cutout, "brightness": _brighten}
