"""How far the small patches of two sets of frames are apart: the unpaired score by which training may be stopped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.errors import InputError

_PATCH, _SCALES = 7, (1, 2)


def patch_distance(a: Tensor, b: Tensor, *, projections: int = 256, samples: int = 4096, seed: int = 5) -> Tensor:
    """Sliced Wasserstein distance of the 7x7 patches of two sets of frames, at full and half size; 0 for equal sets.

    Patches are projected onto random unit vectors, a random linear function of their height in the frame is added (a
    bright sky is another thing than a bright street), and the sorted projections of both sets are compared by mean
    absolute difference. The same seed asks the same questions of every set. It needs no pairs, and therefore cannot
    tell whether the right thing looks right.

    Args:
        a, b: (N, C, H, W) and (M, C, H, W), H and W at least 14.
        projections: random vectors for each scale.
        samples: patches drawn from each set for each scale, at most.
        seed: of the projections and of the patches drawn.

    Returns:
        float32 scalar, at least 0, in the units of the frames times about the side of a patch.

    Raises:
        InputError: a shape does not fit.

    Source: Elnekave and Weiss 2022, "Generating natural images with direct Patch Distributions Matching".
    """
    if a.dim() != 4 or b.dim() != 4 or a.shape[1:] != b.shape[1:] or min(a.shape[2:]) < _PATCH * max(_SCALES):
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise InputError(f"a and b must have shapes (N, C, H, W) and (M, C, H, W), H and W at least 14, got {shapes}")
    random = torch.Generator().manual_seed(seed)
    distances = []
    for scale in _SCALES:
        weight = torch.randn(projections, a.shape[1], _PATCH, _PATCH, generator=random)
        weight = weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        slope = torch.randn(projections, 1, 1, generator=random)
        rows = [_projected(frames.detach().float().cpu(), scale, weight, slope) for frames in (a, b)]
        count = min(samples, *(row.shape[1] for row in rows))
        ordered = [row[:, torch.randperm(row.shape[1], generator=random)[:count]].sort(1)[0] for row in rows]
        distances.append((ordered[0] - ordered[1]).abs().mean())
    return torch.stack(distances).mean()


def _projected(frames: Tensor, scale: int, weight: Tensor, slope: Tensor) -> Tensor:
    """(projections, patches)"""
    values = F.conv2d(F.avg_pool2d(frames, scale), weight)
    height = torch.linspace(-1, 1, values.shape[2]).view(1, -1, 1)
    return (values + slope * height).transpose(0, 1).flatten(1)
