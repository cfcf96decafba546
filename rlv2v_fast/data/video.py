"""Videos one frame at a time, and frames as tensors.

A video is a file (of the kinds of :mod:`rlv2v_fast.data.names`) or a folder of pictures. Frames are ``(H, W, 3)`` uint8
RGB arrays everywhere; both directions hold only a few frames in memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlv2v_fast.data import pictures
from rlv2v_fast.data.container import probe_container, read_container
from rlv2v_fast.data.info import DEFAULT_FPS, VideoInfo
from rlv2v_fast.data.names import ANIMATION_SUFFIXES, existing, frame_files
from rlv2v_fast.data.timing import TimedFrame, timed
from rlv2v_fast.errors import InputError

if TYPE_CHECKING:
    import torch


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, times, colours, frame count and presence of audio of the video at ``path``.

    Containers are opened and their first frame decoded; a GIF or WebP is scanned to its end, as only the sum of its
    frame times gives a rate. The rate of those two is the simplest one that their rounded times agree with.

    Raises:
        InputError: the video is missing, not a video, or damaged where it was looked at.
    """
    path = existing(path)
    if path.is_dir():
        image = next(pictures.read_folder(path))
        notes = pictures.notes_of(image)
        return VideoInfo(*image.size, DEFAULT_FPS, len(frame_files(path)), False, notes=notes)
    if path.suffix.lower() in ANIMATION_SUFFIXES:
        return _probe_animation(path)
    return probe_container(path)


def read_frames(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Yield every frame of the video at ``path`` as a new ``(H, W, 3)`` uint8 RGB array.

    Frames come in the order shown, turned and mirrored as metadata say, with transparency composited on black, and HDR
    and wide colours converted to BT.709 (docs/video.md says what becomes of every property). Errors surface while
    iterating, so a damaged file can yield good frames before it raises: use what was read only once the iteration has
    ended.

    Detected damage: a truncated file, data that the decoder reports as invalid or conceals, and a number of frames
    (or, for WebM and MKV, a length in time) other than the container declares. Not detected: changed bits that still
    decode to a picture. None of the video formats carries a checksum of its pictures, so a single flipped bit (H.264
    finds about half of them, ten nearly always) or even several (in VP9, GIF and WebP, which check next to nothing)
    may pass as different pixels; in PNG frames it cannot. Pillow holds the compressed bytes of a WebP file whole.

    Raises:
        InputError: the video is missing, of no known kind, has no video stream or no frames, changes its frame size,
            or is damaged.
    """
    return (frame.pixels for frame in read_timed(path))


def read_timed(path: str | os.PathLike[str], fps: Fraction = DEFAULT_FPS) -> Iterator[TimedFrame]:
    """Yield what :func:`read_frames` yields, each frame with its time from the first one and its duration.

    Args:
        fps: of a folder of pictures, which records no times.
    """
    path = existing(path)
    if path.is_dir():
        images = (pictures.rgb(image) for image in pictures.read_folder(path))
        frames = timed(((pixels, index / fps) for index, pixels in enumerate(images)), 1 / fps)
    elif path.suffix.lower() in ANIMATION_SUFFIXES:
        frames = _read_animation(path)
    else:
        frames = read_container(path)
    shape = None
    for frame in frames:
        shape = shape or frame.pixels.shape
        if frame.pixels.shape != shape:
            sizes = f"from {shape[1]}x{shape[0]} to {frame.pixels.shape[1]}x{frame.pixels.shape[0]}"
            raise InputError(f"video '{path}' must keep one frame size, but it changes {sizes}")
        yield frame
    if shape is None:
        raise InputError(f"video '{path}' must hold at least one frame, but it holds none")


def to_tensor(frames: np.ndarray | Sequence[np.ndarray]) -> torch.Tensor:
    """``(T, H, W, C)`` uint8 frames (an array or a list of frames) as float32 ``(T, C, H, W)`` in [-1, 1].

    Raises:
        InputError: the frames are not uint8 or not four-dimensional, or differ in shape.
    """
    import torch  # here, because processes that decode videos start faster without

    if not isinstance(frames, np.ndarray):
        if len({frame.shape for frame in frames}) != 1:
            raise InputError("frames must be a non-empty list of arrays of one shape")
        frames = np.stack(list(frames))
    if frames.dtype != np.uint8 or frames.ndim != 4:
        raise InputError(f"frames must be uint8 of shape (T, H, W, C), got {frames.dtype} {frames.shape}")
    # The transposed copy is writable and contiguous, whatever view or read-only map was given.
    channels_first = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())
    return channels_first.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(video: torch.Tensor) -> np.ndarray:
    """``(T, C, H, W)`` or ``(C, H, W)`` values in [-1, 1] as uint8 ``(..., H, W, C)``.

    Values are rounded to the nearest level and clamped; ``to_uint8(to_tensor(x))`` is ``x``.

    Raises:
        InputError: the tensor is not floating point, or not three- or four-dimensional.
    """
    import torch

    if not video.is_floating_point() or video.dim() not in (3, 4):
        shape = tuple(video.shape)
        raise InputError(f"video must be floating point of shape (T, C, H, W) or (C, H, W), got {video.dtype} {shape}")
    levels = video.detach().to("cpu", torch.float32).add(1.0).mul_(127.5).round_().clamp_(0, 255)
    return levels.to(torch.uint8).movedim(-3, -1).contiguous().numpy()


def _probe_animation(path: Path) -> VideoInfo:
    times = pictures.animation_times(path)
    image = next(pictures.read_animation(path), None)
    if image is None:
        raise InputError(f"video '{path}' must hold at least one frame, but it holds none")
    rate = _animation_rate(path, times)
    tick = Fraction(_tick_ms(path), 1000)
    return VideoInfo(
        *image.size,
        rate,
        len(times),
        False,
        finest=_finest(times),
        tick=tick,
        plays=pictures.plays_of(image),
        notes=pictures.notes_of(image),
    )


def _tick_ms(path: Path) -> int:
    return 10 if path.suffix.lower() == ".gif" else 1


def _animation_rate(path: Path, times: list[int]) -> Fraction:
    return pictures.simplest_rate(len(times), sum(times), _tick_ms(path))


def _finest(times: list[int]) -> Fraction:
    """The rate of which the times of all frames are multiples."""
    return Fraction(1000, math.gcd(*times))


def _read_animation(path: Path) -> Iterator[TimedFrame]:
    times = pictures.animation_times(path)
    rate, starts = _animation_rate(path, times), [0, *accumulate(times)]
    half = Fraction(_tick_ms(path), 2)
    if all(abs(1000 * index / rate - start) <= half for index, start in enumerate(starts)):
        exact = [index / rate for index in range(len(starts))]  # a constant rate, rounded
    else:
        exact = [Fraction(start, 1000) for start in starts]
    images = map(pictures.rgb, pictures.read_animation(path))
    last = exact[-1] - exact[-2] if times else Fraction(0)
    return timed(zip(images, exact, strict=False), last)
