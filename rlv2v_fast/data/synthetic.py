"""The artificial task of the paper's Figure 1: put a background that turns from blue to red behind moving digits.

Source clips are whitish seven-segment digits that bounce on black. Target clips are the same kind of scene on a blue
background in the first half of the clip and a red one in the second.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.errors import InputError

BLUE = (0, 0, 255)
RED = (255, 0, 0)
FPS = Fraction(8)

# Ends (x, y) of segments a to g in a cell one wide and two high, with its centre at the origin.
_SEGMENTS = {
    "a": ((-0.5, -1.0), (0.5, -1.0)),
    "b": ((0.5, -1.0), (0.5, 0.0)),
    "c": ((0.5, 0.0), (0.5, 1.0)),
    "d": ((-0.5, 1.0), (0.5, 1.0)),
    "e": ((-0.5, 0.0), (-0.5, 1.0)),
    "f": ((-0.5, -1.0), (-0.5, 0.0)),
    "g": ((-0.5, 0.0), (0.5, 0.0)),
}
_DIGITS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")

_GLYPHS = 2  # digits in a scene
_SCALE = 0.13  # width of a digit, as a part of the frame's side
_RADIUS = 0.032  # half the thickness of a stroke, likewise
_SPEED = (0.02, 0.06)  # of a digit along each axis, sides per frame
_LEVELS = (200, 255)  # range of a digit's gray level


def figure1_pair(
    scene: int | np.random.Generator, frames: int = 16, size: int = 64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One scene rendered in both domains: an exact pair, for scoring only.

    Frame ``t`` of the target is blue if ``t < frames / 2`` and red after. Digits have the same gray levels in both,
    move by fractions of a pixel and have smooth edges.

    Args:
        scene: a seed, at least 0, or a generator to draw the scene from.
        frames: length of the clip, at least 1.
        size: side of a frame in pixels, at least 16.

    Returns:
        Source and target, uint8 ``(frames, size, size, 3)`` RGB, and the mask of the digits (pixels at least half
        covered), bool ``(frames, size, size)``.

    Raises:
        InputError: a number is too small.
    """
    _check("frames", frames, 1)
    _check("size", size, 16)
    if not isinstance(scene, np.random.Generator):
        _check("scene", scene, 0)
    rng = np.random.default_rng(scene)
    source = np.zeros((frames, size, size, 3))
    cover = np.zeros((frames, size, size))
    for _ in range(_GLYPHS):
        alpha, level = _moving_digit(rng, frames, size)
        source += alpha[..., None] * (level - source)
        cover += alpha * (1 - cover)
    early = np.arange(frames) < frames / 2
    background = np.where(early[:, None], BLUE, RED)[:, None, None, :]
    target = source + (1 - cover[..., None]) * background
    return _to_uint8(source), _to_uint8(target), cover >= 0.5


def figure1_clips(
    domain: Literal["source", "target"], count: int, frames: int = 16, size: int = 64, seed: int = 0
) -> list[np.ndarray]:
    """``count`` rendered clips of one domain, uint8 ``(frames, size, size, 3)`` RGB.

    The two domains show different scenes under any one seed, so they are unpaired.

    Raises:
        InputError: a number is too small, or ``domain`` has another value.
    """
    if domain not in ("source", "target"):
        raise InputError(f"domain must be 'source' or 'target', got {domain!r}")
    _check("count", count, 1)
    _check("seed", seed, 0)
    side = ("source", "target").index(domain)
    return [figure1_pair(np.random.default_rng([seed, side, index]), frames, size)[side] for index in range(count)]


def write_figure1(
    folder: str | os.PathLike[str],
    source_clips: int,
    target_clips: int,
    frames: int = 16,
    size: int = 64,
    seed: int = 0,
) -> None:
    """Write lossless ``folder/source/*.mp4`` and ``folder/target/*.mp4`` at 8 frames a second, unpaired.

    The pixels are those of :func:`figure1_clips`. Existing files of the same names are replaced.

    Raises:
        InputError: a number is too small, or the folder cannot be made or written to.
    """
    for domain, count in (("source", source_clips), ("target", target_clips)):
        clips = figure1_clips(domain, count, frames, size, seed)  # type: ignore[arg-type]
        place = Path(folder, domain)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"folder '{folder}' must be one that can be made: {error.strerror}") from error
        for index, clip in enumerate(clips):
            with VideoWriter(place / f"{index:04d}.mp4", size, size, FPS, lossless=True) as writer:
                for frame in clip:
                    writer.write(frame)


def _moving_digit(rng: np.random.Generator, frames: int, size: int) -> tuple[np.ndarray, float]:
    """Coverage in [0, 1] of one bouncing digit, ``(frames, size, size)``, and its gray level."""
    digit = _DIGITS[rng.integers(len(_DIGITS))]
    level = float(rng.integers(_LEVELS[0], _LEVELS[1] + 1))
    # One radius reaches the edge of the stroke, the other keeps it clear of the border.
    margin = np.array([_SCALE / 2, _SCALE]) + 2 * _RADIUS
    velocity = rng.uniform(*_SPEED, size=2) * rng.choice([-1, 1], size=2)
    start = rng.uniform(margin, 1 - margin)
    centres = _bounce(start + np.arange(frames)[:, None] * velocity, margin, 1 - margin)
    coverage = [_draw_digit(digit, centre * size, size) for centre in centres]
    return np.stack(coverage), level


def _bounce(position: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A straight path folded back and forth between ``low`` and ``high``."""
    span = high - low
    phase = (position - low) % (2 * span)
    return low + np.minimum(phase, 2 * span - phase)


def _draw_digit(digit: str, centre: np.ndarray, size: int) -> np.ndarray:
    """Coverage of every pixel by round-ended strokes, from its distance to the nearest one."""
    axis = np.arange(size) + 0.5
    points = np.stack(np.meshgrid(axis, axis), axis=-1) - centre
    ends = np.array([_SEGMENTS[name] for name in digit]) * _SCALE * size
    distance = np.min([_distance(points, start, end) for start, end in ends], axis=0)
    return np.clip(_RADIUS * size + 0.5 - distance, 0.0, 1.0)


def _distance(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    nearest = np.clip((points - start) @ along / (along @ along), 0.0, 1.0)
    return np.linalg.norm(points - start - nearest[..., None] * along, axis=-1)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def _check(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")
