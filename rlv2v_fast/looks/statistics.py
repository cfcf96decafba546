"""What the network knows of a clip: numbers on its colours, textures and layout. Some change with the look."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.looks.closed_form import RANKS
from rlv2v_fast.looks.look import SIDE, blur, luma, places

_BINS, _FIFTHS, _SECTORS, _GRID, _DIRECTIONS = 6, 5, 6, 4, 6
# Keeps the logarithm of an empty band finite.
_FLOOR = 1e-3


def frames_of(clips: Tensor, count: int = 2) -> Tensor:
    """Frames (N, count, 3, SIDE, SIDE) in [0, 1], evenly spread over each of N clips (N, T, 3, H, W) in [-1, 1]."""
    index = torch.linspace(0, clips.shape[1] - 1, count).round().long()
    frames = clips[:, index].flatten(0, 1).float()
    frames = F.interpolate(frames, size=(SIDE, SIDE), mode="area")
    return ((frames + 1) / 2).clamp(0, 1).unflatten(0, (len(clips), count))


def clip_statistics(frames: Tensor) -> Tensor:
    """Statistics (N, STATISTICS) of clips, each given by some frames: (N, t, 3, SIDE, SIDE) in [0, 1]."""
    rows = _colours(frames.flatten(0, 1)) + _textures(frames.flatten(0, 1)) + _layout(frames.flatten(0, 1))
    return torch.cat(rows, 1).unflatten(0, frames.shape[:2]).mean(1)


def _colours(frames: Tensor) -> list[Tensor]:
    """Quantiles, moments, and chroma by luma, by rank of luma and by hue."""
    pixels = torch.cat([frames, luma(frames)], 1)[:, :, ::2, ::2].flatten(2)
    count = pixels.shape[2]
    ordered = pixels.sort(2)[0]
    parts = [_at(ordered, RANKS).flatten(1)]
    colours, light = pixels[:, :3], pixels[:, 3]
    centred = colours - colours.mean(2, keepdim=True)
    covariance = centred @ centred.transpose(1, 2) / count
    upper = torch.triu_indices(3, 3)
    parts += [colours.mean(2), covariance[:, upper[0], upper[1]] * 10]
    chroma = colours[:, [0, 2]] - light[:, None]
    parts.append(_at(chroma.sort(2)[0], (0.1, 0.5, 0.9)).flatten(1))
    saturation = (colours.amax(1) - colours.amin(1)).sort(1)[0]
    parts += [saturation.mean(1, keepdim=True), _at(saturation[:, None], (0.5, 0.9)).flatten(1)]
    # Chroma by luma, in overlapping bins. A bin with few pixels falls towards 0.
    centres = torch.linspace(0, 1, _BINS)[:, None]
    weights = (1 - (light[:, None] - centres).abs() * (_BINS - 1)).clamp(min=0) / count
    mass = weights.sum(2)
    held = (mass + 0.02)[:, None]
    mean = chroma @ weights.transpose(1, 2) / held
    square = chroma.square() @ weights.transpose(1, 2) / held
    parts += [mass, mean.flatten(1) * 3, (square - mean.square()).clamp(min=1e-6).sqrt().flatten(1) * 3]
    # Colours by rank of luma: a curve on luma moves them together.
    by_light = colours.gather(2, light.argsort(1)[:, None].expand(-1, 3, -1))
    parts.append(torch.stack([part.mean(2) for part in by_light.chunk(_FIFTHS, 2)], 2).flatten(1))
    angles = torch.arange(_SECTORS) * 2 * math.pi / _SECTORS
    axes = torch.stack([angles.cos(), angles.sin()], 1)
    towards = (axes @ chroma).clamp(min=0)
    energy = towards.mean(2)
    parts += [energy * 10, (towards * light[:, None]).mean(2) / (energy + 0.003)]
    return parts


def _textures(frames: Tensor) -> list[Tensor]:
    """Energies of bands of frequency, where it is dark and bright, and the directions of edges."""
    light = luma(frames)
    blurred = [blur(frames, width) for width in (0.8, 1.6, 3.2)]
    lights = [light, *(luma(each) for each in blurred)]
    bands = [(a - b).flatten(1) for a, b in itertools.pairwise(lights)]
    parts = []
    for band in bands:
        deviation = band.std(1, keepdim=True)
        parts += [(deviation + _FLOOR).log(), band.abs().mean(1, keepdim=True) / (deviation + _FLOOR)]
    parts.append(((frames - blurred[0]).flatten(2).std(2) + _FLOOR).log())
    values = light.flatten(1)
    dark = (values < values.median(1, keepdim=True)[0]).float()
    for where in (dark, 1 - dark):
        energy = (bands[0].square() * where).sum(1, keepdim=True) / (where.sum(1, keepdim=True) + 1)
        parts.append((energy.sqrt() + _FLOOR).log())
    # Directions and sparseness of edges change little with the look: they say what is shown.
    smooth = lights[1][:, 0]
    down, right = smooth[:, 1:, :-1] - smooth[:, :-1, :-1], smooth[:, :-1, 1:] - smooth[:, :-1, :-1]
    size = (down.square() + right.square() + 1e-10).sqrt().flatten(1)
    angle = torch.atan2(down, right).flatten(1) * 2
    centres = torch.arange(_DIRECTIONS) * 2 * math.pi / _DIRECTIONS
    share = ((angle[:, None] - centres[:, None]).cos().clamp(min=0) * size[:, None]).mean(2)
    parts += [
        share / (size.mean(1, keepdim=True) + 1e-4),
        size.mean(1, keepdim=True) / (size.std(1, keepdim=True) + 1e-4),
    ]
    return parts


def _layout(frames: Tensor) -> list[Tensor]:
    """Where it is bright and coloured, the fall of light towards the corners, and the colour around what is bright."""
    light = luma(frames)
    logs = (light + 0.02).log()
    grid = F.adaptive_avg_pool2d(logs, _GRID).flatten(1)
    parts = [grid - grid.mean(1, keepdim=True)]
    chroma = (frames - light)[:, [0, 2]]
    coarse = F.adaptive_avg_pool2d(chroma, 3).flatten(2)
    parts.append((coarse - coarse.mean(2, keepdim=True)).flatten(1) * 5)
    # Ranks of luma: no increasing curve changes them.
    small = light[:, 0, ::2, ::2]
    ranks = small.flatten(1).argsort(1).argsort(1).float() / small[0].numel() - 0.5
    parts.append(F.adaptive_avg_pool2d(ranks.view_as(small)[:, None], _GRID).flatten(1))
    r2 = places(frames[:1]).square().sum(1)
    colours = (frames + 0.02).log()
    mean = colours.mean((2, 3))
    for low, high in ((0, 0.25), (0.25, 0.6), (0.6, 1.1), (1.1, 2.1)):
        ring = ((r2 >= low) & (r2 < high)).float()
        parts.append((colours * ring).sum((2, 3)) / ring.sum() - mean)
    bright = ((light - 0.6).clamp(min=0) * 2.5).clamp(max=1)
    around = blur(bright, 2.5) * (1 - bright)
    held = around.mean((2, 3)) + 0.003
    parts += [(chroma * around).mean((2, 3)) / held * 3, (light * around).mean((2, 3)) / held]
    return parts


def _at(ordered: Tensor, ranks: tuple[float, ...]) -> Tensor:
    """Quantiles of values (N, C, P) in increasing order."""
    return ordered[:, :, (torch.tensor(ranks) * (ordered.shape[2] - 1)).long()]


STATISTICS = clip_statistics(torch.zeros(1, 1, 3, SIDE, SIDE)).shape[1]
