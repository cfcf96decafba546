"""Looks as a colourist makes them, to test the look prior with. Nothing here is shared with the looks of its training.

A grade works on float64 frames (T, H, W, 3) in [0, 1]. There are three families: tone and colour; with a change by
place (vignette, graduated filter); with the neighbourhood (halation, diffusion, grain).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Frames = np.ndarray
FAMILIES = ("tone and colour", "with place", "with neighbourhood")
STYLES = ("plain", "bleach bypass", "two colours", "faded", "cross processed")
# Luma of BT.709, and the display gamma.
_WEIGHTS, _GAMMA = np.array([0.2126, 0.7152, 0.0722]), 2.2


@dataclass(frozen=True)
class Grade:
    """A look of one family, drawn from a seed."""

    family: str
    seed: int
    style: str = field(init=False)

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {self.family!r}")
        object.__setattr__(self, "style", STYLES[int(self._rng("style").integers(len(STYLES)))])

    def __call__(self, frames: Frames, *, grain: bool = False) -> Frames:
        """frames under this look. With grain, as a film would show them; the truth that is scored has none."""
        if self.family == "with neighbourhood":
            frames = self._diffused(frames)
        frames = self._coloured(frames)
        if self.family == "with place":
            frames = self._shaded(frames)
        if grain and self.family == "with neighbourhood":
            rng = self._rng("grain")
            strength = rng.uniform(0, 0.02)
            frames = frames + strength * rng.standard_normal(frames.shape)
        return frames.clip(0, 1)

    def _rng(self, part: str) -> np.random.Generator:
        """A stream for each part, so that adding one leaves the others as they were."""
        return np.random.default_rng([self.seed, FAMILIES.index(self.family), *part.encode()])

    def _coloured(self, frames: Frames) -> Frames:
        rng = self._rng("colour")
        # Exposure in linear light; what exceeds white bends over.
        linear = frames**_GAMMA * 2.0 ** rng.uniform(-1.1, 0.8)
        frames = np.where(linear > 0.7, 0.7 + 0.3 * np.tanh((linear - 0.7) / 0.3), linear).clip(0, 1) ** (1 / _GAMMA)
        frames = _s_curve(frames, rng.uniform(0.35, 0.55), rng.uniform(0.5, 2.2))
        # Slope, offset and power: the colour decision list of the ASC.
        slope, offset = rng.uniform(0.85, 1.12, 3), rng.uniform(-0.04, 0.08, 3)
        frames = (frames * slope + offset).clip(0, 1) ** rng.uniform(0.8, 1.25, 3)
        frames = _saturated(_turned(frames, math.radians(rng.uniform(-14, 14))), rng.uniform(0.4, 1.35))
        frames = _STYLES[self.style](frames, self._rng(self.style))
        # Tints of shadows and highlights.
        weight = _step(0, 1, _light(frames) + rng.uniform(-0.15, 0.15))
        shadows, highlights = rng.uniform(-0.1, 0.1, (2, 3))
        return (frames + shadows * (1 - weight) + highlights * weight).clip(0, 1)

    def _shaded(self, frames: Frames) -> Frames:
        rng = self._rng("place")
        u, v = _places(frames)
        distance = np.hypot(u - rng.uniform(-0.2, 0.2), v - rng.uniform(-0.2, 0.2))
        shade = 1 - rng.uniform(0.25, 0.75) * _step(rng.uniform(0.2, 0.6), rng.uniform(1.2, 1.6), distance)
        frames = frames * shade[..., None]
        if rng.random() < 0.5:
            angle = rng.uniform(0, 2 * math.pi)
            along = math.cos(angle) * u + math.sin(angle) * v
            filtered = 1 + (rng.uniform(0.6, 1.25, 3) - 1) * _step(-0.4, 0.6, along)[..., None]
            frames = frames * filtered
        return frames

    def _diffused(self, frames: Frames) -> Frames:
        rng = self._rng("neighbourhood")
        scale = min(frames.shape[1:3]) / 64
        threshold = rng.uniform(0.5, 0.75)
        bright = ((_light(frames) - threshold) / (1 - threshold)).clip(0, 1) * frames
        tint = np.array([1.0, rng.uniform(0.3, 0.9), rng.uniform(0.1, 0.8)])
        frames = frames + rng.uniform(0.15, 0.6) * tint * _blurred(bright, rng.uniform(1.5, 5) * scale)
        if rng.random() < 0.5:
            share = rng.uniform(0.2, 0.6)
            frames = (1 - share) * frames + share * _blurred(frames, 1.3 * scale)
        return frames.clip(0, 1)


def grades(count: int, first: int = 0) -> list[Grade]:
    """The same number of grades of each family, from seeds first, first + 1 and so on."""
    return [Grade(FAMILIES[index % len(FAMILIES)], first + index) for index in range(count)]


def _light(frames: Frames) -> Frames:
    return (frames * _WEIGHTS).sum(-1, keepdims=True)


def _step(low: float, high: float, x: Frames) -> Frames:
    t = ((x - low) / (high - low)).clip(0, 1)
    return t * t * (3 - 2 * t)


def _s_curve(x: Frames, pivot: float, strength: float) -> Frames:
    """A tanh through the pivot, from 0 to 1."""
    low, high = math.tanh(-strength * pivot), math.tanh(strength * (1 - pivot))
    return (np.tanh(strength * (x - pivot)) - low) / (high - low)


def _saturated(frames: Frames, factor: float) -> Frames:
    light = _light(frames)
    return light + (frames - light) * factor


def _turned(frames: Frames, angle: float) -> Frames:
    """Colours turned round the grey axis."""
    axis = np.ones(3) / math.sqrt(3)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * np.outer(axis, axis)
    return frames @ rotation.T


def _bleached(frames: Frames, rng: np.random.Generator) -> Frames:
    """Overlaid with its own luma."""
    light, share = _light(frames), rng.uniform(0.2, 0.6)
    overlaid = np.where(light < 0.5, 2 * frames * light, 1 - 2 * (1 - frames) * (1 - light))
    return (1 - share) * frames + share * overlaid


def _two_colours(frames: Frames, rng: np.random.Generator) -> Frames:
    """Chroma drawn to one axis, from orange to teal or the like."""
    axis = _turned(np.array([0.7, 0.05, -0.75]), rng.uniform(-0.4, 0.4))
    axis /= np.linalg.norm(axis)
    light, share = _light(frames), rng.uniform(0.2, 0.6)
    chroma = frames - light
    along = (chroma * axis).sum(-1, keepdims=True) * axis
    return light + along * (1 + 0.4 * share) + (chroma - along) * (1 - share)


def _faded(frames: Frames, rng: np.random.Generator) -> Frames:
    """Black lifted to a colour, white lowered."""
    black, white = rng.uniform(0.03, 0.18, 3), rng.uniform(0.85, 1.0, 3)
    return black + (white - black) * frames


def _cross_processed(frames: Frames, rng: np.random.Generator) -> Frames:
    """An S-curve of its own for each channel."""
    return np.stack(
        [_s_curve(frames[..., c], rng.uniform(0.35, 0.65), rng.uniform(0.5, 2.5)) for c in range(3)], axis=-1
    )


_STYLES: dict[str, Callable[[Frames, np.random.Generator], Frames]] = {
    "plain": lambda frames, rng: frames,
    "bleach bypass": _bleached,
    "two colours": _two_colours,
    "faded": _faded,
    "cross processed": _cross_processed,
}


def _places(frames: Frames) -> tuple[Frames, Frames]:
    """The horizontal and vertical place of each pixel in [-1, 1], (H, W) each."""
    height, width = frames.shape[1:3]
    v, u = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return u, v


def _blurred(frames: Frames, width: float) -> Frames:
    """Convolved with a Gaussian, mirrored at the borders."""
    reach = math.ceil(3 * width)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * width * width))
    for axis in (1, 2):
        size = frames.shape[axis]
        padding = [(reach, reach) if each == axis else (0, 0) for each in range(4)]
        padded = np.pad(frames, padding, mode="symmetric")
        parts = (np.take(padded, range(i, i + size), axis) * weight for i, weight in enumerate(weights / weights.sum()))
        frames = sum(parts, np.zeros_like(frames))
    return frames
