"""The distance between the small patches of two sets of frames: the unpaired score that models are chosen by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.errors import InputError

_PATCH, _SCALES = 7, (1, 2)


def patch_distance(a: Tensor, b: Tensor, *, projections: int = 256, samples: int = 4096, seed: int = 5) -> Tensor:
    """The sliced Wasserstein distance of the 7x7 patches of two sets of frames, at full and half size.

    Patches are projected onto random unit vectors. A random linear function of their height in the frame is added,
    because a bright sky is not a bright street. The sorted projections of both sets are compared by mean absolute
    difference; 0 for equal sets. One seed gives the same vectors for all sets. The distance needs no pairs, so it
    cannot tell whether the right object looks right.

    Args:
        a, b: (N, C, H, W) and (M, C, H, W), H and W at least 14.
        projections: number of random vectors at each scale.
        samples: most patches drawn from each set at each scale.
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
        pooled = [F.avg_pool2d(frames.detach().float().cpu(), scale) for frames in (a, b)]
        places = [_places(frames) for frames in pooled]
        count = min(samples, *places)
        chosen = [torch.randperm(number, generator=random)[:count] for number in places]
        rows = [_projected(frames, at, weight, slope) for frames, at in zip(pooled, chosen, strict=True)]
        distances.append((rows[0].sort(0)[0] - rows[1].sort(0)[0]).abs().mean())
    return torch.stack(distances).mean()


def _places(frames: Tensor) -> int:
    """The number of patches in the frames."""
    return frames.shape[0] * (frames.shape[2] - _PATCH + 1) * (frames.shape[3] - _PATCH + 1)


def _projected(frames: Tensor, chosen: Tensor, weight: Tensor, slope: Tensor) -> Tensor:
    """Projections of the chosen patches, (patches, projections). Projecting all patches took five times as long."""
    patches = frames.unfold(2, _PATCH, 1).unfold(3, _PATCH, 1)  # (N, C, rows, columns, 7, 7)
    rows, columns = patches.shape[2:4]
    frame, row, column = chosen // (rows * columns), chosen // columns % rows, chosen % columns
    values = patches[frame, :, row, column].flatten(1) @ weight.flatten(1).T
    return values + torch.linspace(-1, 1, rows)[row].unsqueeze(1) * slope.flatten()
