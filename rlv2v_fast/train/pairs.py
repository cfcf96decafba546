"""True pairs of a user: a few frames of the source, and how they look in the target."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlv2v_fast.data.clips import find_videos
from rlv2v_fast.data.names import frame_files
from rlv2v_fast.data.video import read_frames, to_tensor
from rlv2v_fast.domains import DOMAINS
from rlv2v_fast.errors import InputError

# Frames of all pairs that are used, and the largest short side at which they are: more tell no more about a look.
_FRAMES, _SIDE = 24, 256


def by_name(path: Path, argument: str) -> dict[str, Path]:
    """Videos by their name relative to path, without the suffix of a file."""
    named: dict[str, Path] = {}
    for video in find_videos(path, argument):
        inside = video.relative_to(path) if video != path else Path(video.name)
        name = str(inside if video.is_dir() else inside.with_suffix(""))
        if name in named:
            raise InputError(f"{argument} must have one video of a name; got {named[name]} and {video}")
        named[name] = video
    return named


def read_pairs(folder: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Frames (3, H, W) in [-1, 1] of folder/source, and those of folder/target that show the same.

    Each side is videos of the same names, or pictures of the same names.

    Raises:
        InputError: a side is missing, names, frame counts or sizes differ, or a file cannot be read.
    """
    sides = {name: by_name(folder / name, f"pairs/{name}") for name in ("source", "target")}
    source, target = sides["source"], sides["target"]
    if len(source) == len(target) == 1:
        target = dict(zip(source, target.values(), strict=True))
    if source.keys() != target.keys():
        alone = sorted(source.keys() ^ target.keys())[0]
        raise InputError(f"pairs must hold the same names in source and target; {alone!r} is in one alone")
    each = max(1, _FRAMES // len(source))
    frames: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, path in source.items():
        shapes = [shape_of(video) for video in (path, target[name])]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"pairs/target {target[name]} must have the frames and size of its source, (T, C, H, W) = "
                f"{shapes[0]}; got {shapes[1]}"
            )
        pictures = [[file.stem for file in frame_files(video)] for video in (path, target[name]) if video.is_dir()]
        if len(pictures) == 2 and pictures[0] != pictures[1]:
            raise InputError(f"pairs must hold pictures of the same names; {path} and {target[name]} differ")
        chosen = set(np.linspace(0, shapes[0][0] - 1, min(each, shapes[0][0])).round().astype(int).tolist())
        for side, video in zip(frames, (path, target[name]), strict=True):
            side += [_small(to_tensor(frame[None])[0]) for i, frame in enumerate(read_frames(video)) if i in chosen]
    return frames


def shape_of(path: Path) -> tuple[int, int, int, int]:
    """(T, C, H, W) of a video, counted in constant memory."""
    count = 0
    for frame in read_frames(path):
        count, (height, width, channels) = count + 1, frame.shape
    return count, channels, height, width


@functools.lru_cache(maxsize=2)
def square_pairs(folder: Path, size: int) -> dict[str, Tensor]:
    """The frames of read_pairs as a game takes them: "x" and "y", (N, 3, size, size), the middle square of each."""
    return {
        domain: torch.stack([_square(frame, size) for frame in frames])
        for domain, frames in zip(DOMAINS, read_pairs(folder), strict=True)
    }


def _square(frame: Tensor, size: int) -> Tensor:
    side = min(frame.shape[1:])
    top, left = ((length - side) // 2 for length in frame.shape[1:])
    middle = frame[None, :, top : top + side, left : left + side]
    return torch.nn.functional.interpolate(middle, size, mode="bilinear", antialias=True)[0]


def _small(frame: Tensor) -> Tensor:
    """The frame, averaged over squares of pixels where it is large."""
    square = max(1, min(frame.shape[1:]) // _SIDE)
    return torch.nn.functional.avg_pool2d(frame, square) if square > 1 else frame
