"""Shots of real pictures and films: several clips of each, as footage has them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rlv2v_fast.data.video import read_frames

FILMS = {".avi", ".mp4"}
# Clips of a shot, frames of a clip, and pixels along a side.
CLIPS, FRAMES, SIZE = 5, 8, 64
# A cut is where the mean absolute difference of two frames of 32x32 pixels exceeds it, in levels of 8 bits.
_CUT = 22
# Frames that a shot has at least. Frames of a film beyond this many are not read.
_SHORTEST, _LONGEST = 24, 400
# A side of a crop as a share of the short side of its picture, and how far the camera goes on its way.
_CROP, _WAY = (0.45, 0.95), (0.15, 0.4)


@dataclass(frozen=True)
class Shot:
    """Clips (CLIPS, FRAMES, SIZE, SIZE, 3), uint8, of one picture or of one shot of a film."""

    name: str
    clips: np.ndarray


def read_shots(folder: Path, seed: int = 0) -> list[Shot]:
    """The shots of every picture and film of a folder, in the order of their names."""
    shots = []
    for path in sorted(folder.iterdir()):
        # A stream for each file, so that another file changes no clip of this one.
        rng = np.random.default_rng([seed, *path.stem.encode()])
        if path.suffix in FILMS:
            parts = _split([frame for _, frame in zip(range(_LONGEST), read_frames(path), strict=False)])
            shots += [Shot(f"{path.stem}:{index}", _of_film(part, rng)) for index, part in enumerate(parts)]
        else:
            with Image.open(path) as image:
                shots.append(Shot(path.stem, _of_picture(image.convert("RGB"), rng)))
    return shots


def _of_picture(picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Clips of a camera that pans and zooms over a picture."""
    clips = []
    for _ in range(CLIPS):
        ends = []
        for _ in range(2):
            side = min(picture.size) * rng.uniform(*_CROP)
            ends.append(np.array([*(rng.uniform(0, size - side) for size in picture.size), side]))
        ways = np.linspace(0, rng.uniform(*_WAY), FRAMES)
        boxes = [ends[0] + (ends[1] - ends[0]) * way for way in ways]
        clips.append([_cropped(picture, (x, y, x + side, y + side)) for x, y, side in boxes])
    return np.array(clips)


def _of_film(frames: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Clips from random moments, each of one square of the frame."""
    step = max(1, min(3, len(frames) // (2 * FRAMES)))
    height, width = frames[0].shape[:2]
    clips = []
    for _ in range(CLIPS):
        first = int(rng.integers(0, len(frames) - step * (FRAMES - 1)))
        side = min(height, width) * rng.uniform(0.6, 1)
        x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
        chosen = frames[first : first + step * (FRAMES - 1) + 1 : step]
        clips.append([_cropped(Image.fromarray(frame), (x, y, x + side, y + side)) for frame in chosen])
    return np.array(clips)


def _cropped(picture: Image.Image, box: tuple[float, float, float, float]) -> np.ndarray:
    left, top = (max(0.0, each) for each in box[:2])
    right, bottom = (min(float(size), each) for size, each in zip(picture.size, box[2:], strict=True))
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX, box=(left, top, right, bottom)))


def _split(frames: list[np.ndarray]) -> list[list[np.ndarray]]:
    """The frames between cuts, without shots that are too short."""
    small = np.stack([np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BOX)) for frame in frames])
    differences = np.abs(np.diff(small.astype(float), axis=0)).mean((1, 2, 3))
    bounds = [0, *(np.flatnonzero(differences > _CUT) + 1), len(frames)]
    parts = [frames[a:b] for a, b in itertools.pairwise(bounds)]
    return [part for part in parts if len(part) >= _SHORTEST]
