"""Frames of two sides that show the same, found whatever their looks are: they are true pairs that nobody named."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.looks.look import SIDE, blur, luma, pixel_features, places

# Frames of a side that are compared, and of the target that are taken as matched, at most.
_COMPARED, _TAKEN = 32, 16
# Side of the frames that are compared at all shifts, and the sizes at which a source frame is tried: a fifth of an
# octave lies between them.
_COARSE = SIDE // 2
_SIZES = tuple(2 ** (step / 5) for step in range(-5, 6))
# Share of the target's frame that a source frame must cover, at least.
_OVERLAP = 0.35
# Correlation of structure from which two frames show the same. Frames of other shots reached 0.45, frames of one shot
# 0.82 and more (docs/notebook/looks.md).
_SAME = 0.75
# Steps that refine size and shift, and pixels without which a match says nothing.
_STEPS, _PIXELS = 30, 400
# Squared difference of structure, averaged around a pixel, up to which the pixel shows the same.
_AGREE = 0.15
# Contrast, in [0, 1], below which a surface counts as flat; and the mean square of structure that counts as texture.
_FLAT, _TEXTURE = 0.02, 0.1
# Deviation within a line of pixels below which it belongs to a bar; how far a bar's edge is felt, in pixels of SIDE.
_BAR, _EDGE = 0.01, 5


@dataclass(frozen=True)
class Matches:
    """Pixels of the target and of the source that show the same.

    Attributes:
        features: (P, FEATURES), of pixel_features: colours of the source, places in the target.
        colours: (P, 3) in [0, 1], of the target.
        frames: of the target that have a match.
    """

    features: Tensor
    colours: Tensor
    frames: int


def find(source: Tensor, target: Tensor) -> Matches | None:
    """What both sides show, or None where that is too little.

    Frames are compared by structure, which a smooth look hardly changes, at all shifts and at sizes from a half to the
    double. A mirrored, turned or inverted frame is not found.

    Args:
        source, target: frames (N, 3, SIDE, SIDE) and (M, 3, SIDE, SIDE) in [0, 1].
    """
    source, target = _some(source), _some(target)
    likeness, size, shift = _compared(source, target)
    likely = likeness.max(0).values.argsort(descending=True)[:_TAKEN]
    best = likeness[:, likely].argmax(0)
    source, target = source[best], target[likely]
    likeness, size, shift = _refined(source, target, size[best, likely], shift[best, likely])
    same = likeness >= _SAME
    if not same.any():
        return None
    source, target, size, shift = source[same], target[same], size[same], shift[same]
    seen, inside = _moved(torch.cat([pixel_features(source)[:, :-2], _structure(source, SIDE)], 1), size, shift)
    differing = blur((seen[:, -1:] - _structure(target, SIDE)).square(), 2.0)[:, 0]
    chosen = inside & (differing <= _AGREE)
    if chosen.sum() < _PIXELS:
        return None
    features = torch.cat([seen[:, :-1], places(target)], 1)
    return Matches(features.movedim(1, -1)[chosen], target.movedim(1, -1)[chosen], int(chosen.any(2).any(1).sum()))


def _some(frames: Tensor) -> Tensor:
    """At most _COMPARED frames, spread evenly."""
    count = len(frames)
    return frames if count <= _COMPARED else frames[torch.linspace(0, count - 1, _COMPARED).round().long()]


def _structure(frames: Tensor, side: int) -> Tensor:
    """Luma less its surroundings, over its contrast there: (N, 1, side, side). It is 0 in bars and around them."""
    light = luma(frames).nan_to_num()
    shown = F.interpolate(light, size=(side, side), mode="area" if side <= SIDE else "bilinear")
    detail = shown - blur(shown, 2.0)
    held = F.interpolate(_within_bars(light), size=(side, side))
    return held * detail / (blur(detail.square(), 3.0) + _FLAT**2).sqrt()


def _within_bars(light: Tensor) -> Tensor:
    """1 where frames (N, 1, SIDE, SIDE) show something, 0 in and near the bars along their borders: (1, 1, ...)."""
    lines = []
    for axis in (3, 2):
        varied = (light.std(axis) > _BAR).any(1).any(0).float()
        # Bars are at both ends: what is between the first and the last line that shows something is no bar.
        inside = varied.cummax(0).values * varied.flip(0).cummax(0).values.flip(0)
        bar = F.pad(1 - inside, (_EDGE, _EDGE), value=0)
        lines.append(1 - F.max_pool1d(bar[None, None], 2 * _EDGE + 1, 1)[0, 0])
    return (lines[0][:, None] * lines[1])[None, None]


def _compared(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best correlation of each source with each target frame, (N, M), with its size (N, M) and shift (N, M, 2).

    A pixel x of the source lies at size * x + shift in the target, rows first, in pixels of SIDE.
    """
    wanted = _structure(target, _COARSE)[:, 0]
    # Room for every shift, so that nothing comes round the border.
    room = _COARSE + round(_COARSE * max(_SIZES))

    def spectrum(frames: Tensor) -> Tensor:
        return torch.fft.rfft2(frames, s=(room, room))

    def back(spectra: Tensor) -> Tensor:
        return torch.fft.irfft2(spectra, s=(room, room))

    spectra, powers = spectrum(wanted), spectrum(wanted.square())
    whole = spectrum(torch.ones_like(wanted[0]))
    best = torch.full((len(source), len(target)), -1.0)
    size, shift = torch.ones_like(best), torch.zeros(*best.shape, 2)
    for factor in _SIZES:
        shown = _structure(source, round(_COARSE * factor))[:, 0]
        window = spectrum(torch.ones_like(shown[0])).conj()
        area = back(whole * window)
        own = back(whole * spectrum(shown.square()).conj())
        conjugates = spectrum(shown).conj()
        for index in range(len(target)):
            energy = (own * back(powers[index] * window)).clamp(min=0).sqrt()
            likeness = back(spectra[index] * conjugates) / energy.clamp(min=_TEXTURE * _OVERLAP * _COARSE**2)
            likeness = likeness.masked_fill(area < _OVERLAP * _COARSE**2, -1)
            top, at = likeness.flatten(1).max(1)
            place = torch.stack([at // room, at % room], 1).float()
            place = torch.where(place >= _COARSE, place - room, place) * (SIDE / _COARSE)
            better = top > best[:, index]
            best[:, index] = torch.where(better, top, best[:, index])
            size[:, index] = torch.where(better, factor, size[:, index])
            shift[:, index] = torch.where(better[:, None], place, shift[:, index])
    return best, size, shift


def _moved(frames: Tensor, size: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Frames (K, C, SIDE, SIDE) of the source where the target sees them, and which pixels it sees, (K, SIDE, SIDE)."""
    centres = torch.arange(SIDE) + 0.5
    rows, columns = (((centres - shift[:, each, None]) / size[:, None]) / SIDE * 2 - 1 for each in (0, 1))
    grid = torch.stack([columns[:, None, :].expand(-1, SIDE, -1), rows[:, :, None].expand(-1, -1, SIDE)], -1)
    inside = (grid.abs() <= 1 - 1 / SIDE).all(-1)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=False), inside


def _refined(source: Tensor, target: Tensor, size: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The correlation of K pairs of frames, (K,), and the size and shift near the given ones that are best for it."""
    shown, wanted = _structure(source, SIDE), _structure(target, SIDE)
    scale, place = size.log().requires_grad_(), shift.clone().requires_grad_()
    optimizer = torch.optim.Adam([{"params": [scale], "lr": 0.01}, {"params": [place], "lr": 0.3}])
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.93)

    def likeness() -> Tensor:
        seen, inside = _moved(shown, scale.exp(), place)
        held = inside[:, None].float()
        energy = (seen.square() * held).sum((1, 2, 3)) * (wanted.square() * held).sum((1, 2, 3))
        # Bounded before the root, whose derivative is infinite at 0.
        least = _TEXTURE * _OVERLAP * SIDE**2
        return (seen * wanted * held).sum((1, 2, 3)) / energy.clamp(min=least**2).sqrt()

    with torch.enable_grad():
        for _ in range(_STEPS):
            optimizer.zero_grad()
            (-likeness().sum()).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return likeness(), scale.exp(), place.detach()
