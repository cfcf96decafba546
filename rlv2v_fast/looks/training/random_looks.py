"""Random looks, which the prior is trained on: broad, because only what was seen can be recognised.

No look is named after a film or a tool. Each is a random composition of random smooth functions, some of them faint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from rlv2v_fast.looks.look import LUMA, blur, identity_table, looked_up, luma, places

# Colours along each axis of a random table.
_LEVELS = 17
# Share of looks that change little.
_FAINT = 0.2


class Dice:
    """Random numbers of one stream."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def happens(self, share: float) -> bool:
        return self.uniform(0, 1) < share

    def integer(self, low: int, high: int) -> int:
        """From low to high - 1."""
        return int(torch.randint(low, high, (), generator=self.generator))


@dataclass(frozen=True)
class RandomLook:
    """A colour table, perhaps a fall of light by place, perhaps blur, glow and grain."""

    table: Tensor
    place: Tensor | None
    place_first: bool
    blurs: tuple[tuple[float, float], ...]
    glow: tuple[float, float, float, Tensor] | None
    grain: float

    def __call__(self, frames: Tensor, generator: Generator | None = None) -> Tensor:
        """frames (N, 3, H, W) in [0, 1] under this look, in [0, 1]; with grain that the generator draws, if given."""
        for width, share in self.blurs:
            frames = frames + share * (blur(frames, width) - frames)
        if self.glow is not None:
            share, threshold, width, tint = self.glow
            bright = (luma(frames) - threshold).clamp(min=0) / (1 - threshold) * frames
            frames = frames + share * tint[:, None, None] * blur(bright, width)
        if self.place is not None and self.place_first:
            frames = frames * self._factor(frames)
        pixels = frames.clamp(0, 1).flatten(2).transpose(1, 2).reshape(1, -1, 3)
        colours = looked_up(self.table[None], pixels).reshape(len(frames), -1, 3).transpose(1, 2)
        frames = colours.reshape(frames.shape)
        if self.place is not None and not self.place_first:
            frames = frames * self._factor(frames)
        if self.grain and generator is not None:
            noise = torch.randn(frames.shape, generator=generator)
            frames = frames + self.grain * noise * (1 - luma(frames).clamp(0, 1) / 2)
        return frames.clamp(0, 1)

    def _factor(self, frames: Tensor) -> Tensor:
        """exp of a polynomial in place, a channel: (1, 3, H, W)."""
        assert self.place is not None
        u, v = places(frames[:1])[0]
        du, dv = u - self.place[0], v - self.place[1]
        r2 = du * du + dv * dv
        exponent = self.place[2] * r2 + self.place[3] * r2 * r2
        slopes = self.place[4:].view(2, 3, 1, 1)
        return (exponent + slopes[0] * u + slopes[1] * v).clamp(-2, 0.7).exp()[None]


def draw(generator: Generator) -> RandomLook:
    """A random look."""
    dice = Dice(generator)
    strength = dice.uniform(0.1, 0.4) if dice.happens(_FAINT) else dice.uniform(0.4, 1.6)
    steps = [_curves, _matrix, _tints]
    steps += [step for step, share in _SOMETIMES.items() if dice.happens(share)]
    colours = identity_table(_LEVELS).reshape(3, -1).T
    for index in torch.randperm(len(steps), generator=generator).tolist():
        colours = steps[index](colours, dice, strength)
    table = colours.T.reshape(3, _LEVELS, _LEVELS, _LEVELS).clamp(-0.05, 1.05)
    place = _place(dice, min(strength, 1)) if dice.happens(0.45) else None
    blurs: tuple[tuple[float, float], ...] = ()
    glow, grain = None, 0.0
    if dice.happens(0.45):
        near, far = (dice.uniform(0.6, 1.6), dice.uniform(0, 0.7)), (dice.uniform(2, 5), dice.uniform(0, 0.4))
        blurs = tuple(each for each, share in ((near, 0.5), (far, 0.3)) if dice.happens(share))
        if dice.happens(0.6):
            tint = (torch.tensor([1.0, 0.75, 0.6]) + 0.25 * dice.normal(3)).clamp(0, 1.2)
            glow = (dice.uniform(0, 0.8), dice.uniform(0.35, 0.8), dice.uniform(1.2, 6), tint)
        grain = dice.uniform(0, 0.03) if dice.happens(0.6) else 0.0
    return RandomLook(table, place, dice.happens(0.5), blurs, glow, grain)


def _light(colours: Tensor) -> Tensor:
    return colours @ torch.tensor(LUMA)[:, None]


def _curves(colours: Tensor, dice: Dice, strength: float) -> Tensor:
    """An increasing curve a channel, between a random black and a random white."""
    knots = 0.9 * dice.normal(1, 5) + 0.35 * dice.normal(3, 5)
    slopes = F.interpolate((strength * knots)[None], 16, mode="linear", align_corners=True)[0].exp()
    curve = F.pad(slopes.cumsum(1), (1, 0))
    curve = curve / curve[:, -1:]
    black = strength * (0.08 * abs(dice.uniform(-1, 1)) + 0.03 * dice.normal(3, 1))
    above = -dice.uniform(0, 0.1) if dice.happens(0.3) else 0.15 * abs(dice.uniform(-1, 1))
    white = 1 - strength * (above + 0.06 * dice.normal(3, 1))
    curve = black + (white - black) * curve
    place = colours.clamp(0, 1) * 16
    low = place.floor().long().clamp(max=15)
    part = place - low
    values = [curve[c][low[:, c]] * (1 - part[:, c]) + curve[c][low[:, c] + 1] * part[:, c] for c in range(3)]
    return torch.stack(values, 1)


def _matrix(colours: Tensor, dice: Dice, strength: float) -> Tensor:
    """Channels mixed, grey kept, and then another saturation."""
    matrix = torch.eye(3) + 0.12 * strength * dice.normal(3, 3)
    mixed = colours @ (matrix / matrix.sum(1, keepdim=True)).T
    light = _light(mixed)
    return light + (mixed - light) * math.exp(strength * (0.35 * float(dice.normal(1)) - 0.15))


def _tints(colours: Tensor, dice: Dice, strength: float) -> Tensor:
    """Some colours added around some lumas."""
    light = _light(colours)
    for _ in range(dice.integer(2, 5)):
        bump = (-((light - dice.uniform(-0.1, 1.1)) / dice.uniform(0.15, 0.5)).square() / 2).exp()
        colours = colours + bump * (0.06 * strength * dice.normal(1, 3))
    return colours


def _exposure(colours: Tensor, dice: Dice, strength: float) -> Tensor:
    mild = min(strength, 1.0)
    powers = math.exp(0.45 * mild * float(dice.normal(1))) * (0.12 * mild * dice.normal(3)).exp()
    return colours.clamp(1e-4, 1) ** powers


def _contrast(colours: Tensor, dice: Dice, strength: float) -> Tensor:
    pivot = dice.uniform(0.3, 0.6)
    return (colours - pivot) * math.exp(0.3 * min(strength, 1.0) * float(dice.normal(1))) + pivot


def _saturation_by_light(colours: Tensor, dice: Dice, strength: float) -> Tensor:
    light = _light(colours)
    level, slope = (0.4 * float(dice.normal(1)), 0.8 * float(dice.normal(1)))
    return light + (colours - light) * (strength * (level + slope * (light - 0.5))).exp()


def _residual(colours: Tensor, dice: Dice, strength: float) -> Tensor:
    """A coarse random table is added."""
    size = dice.integer(3, 5)
    table = 0.05 * strength * dice.normal(1, 3, size, size, size)
    return colours + looked_up(table, colours.clamp(0, 1)[None])[0]


_SOMETIMES = {_exposure: 0.6, _contrast: 0.3, _saturation_by_light: 0.4, _residual: 0.5}


def _place(dice: Dice, strength: float) -> Tensor:
    """Centre (2), fall of light with the distance (2), slopes a channel and axis (6)."""
    centre = torch.tensor([dice.uniform(-0.25, 0.25), dice.uniform(-0.25, 0.25)])
    falls = dice.happens(0.85)
    fall = -dice.uniform(0, 0.6) if falls else dice.uniform(-0.1, 0.1)
    steep = -dice.uniform(0, 0.1) if falls and dice.happens(0.5) else 0.0
    slopes = 0.2 * dice.normal(2, 1).expand(2, 3) * dice.happens(0.5) + 0.12 * dice.normal(2, 3) * dice.happens(0.4)
    return torch.cat([centre, strength * torch.tensor([fall, steep]), strength * slopes.flatten()])
