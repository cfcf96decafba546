"""A decoded video as a file that many processes map into memory: its frames, scaled, and what proves them whole.

The file holds the uint8 RGB frames one after the other, and then the tail: a mark, the shape, and a SHA-256 over both.
It is written under another name and then renamed. A whole file carries a time of change that no clock gives. Whatever
writes to it changes that time, and the digest is then computed again; otherwise a start need not read every pixel.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rlv2v_fast.data.locks import Temporary, locked
from rlv2v_fast.data.video import read_frames
from rlv2v_fast.errors import InputError

_TAIL = struct.Struct("<8sQII32s")
# Its last byte counts the changes of how pixels are read.
_MARK = b"rlv2v\0\0\2"
# 9 September 2001, a whole number of seconds: some file systems store no fractions.
_SEALED = 10**9 * 10**9


@dataclass(frozen=True)
class Entry:
    """Read-only frames ``(T, H, W, 3)`` uint8, mapped from a file, and the digest of their shape and pixels."""

    frames: np.ndarray
    digest: bytes


class UnwritableError(InputError):
    """An entry of the cache cannot be written; the message is the reason alone."""


def fit(frame: np.ndarray, size: int) -> np.ndarray:
    """The frame ``(H, W, 3)`` uint8, scaled by Pillow with antialiasing so that its shorter side is ``size``."""
    height, width = frame.shape[:2]
    shorter = min(height, width)
    if shorter == size:
        return frame
    scaled = (max(size, round(width * size / shorter)), max(size, round(height * size / shorter)))
    return np.asarray(Image.fromarray(frame).resize(scaled, Image.Resampling.BICUBIC))


def digest_of(frames: np.ndarray) -> bytes:
    """SHA-256 over the pixels and the shape of ``(T, H, W, 3)`` uint8 frames."""
    return _digest(frames, frames.shape)


def _digest(frames: Iterable[np.ndarray], shape: tuple[int, ...]) -> bytes:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(np.ascontiguousarray(frame).data)
    return _with_shape(digest, shape)


def _with_shape(digest: hashlib._Hash, shape: tuple[int, ...]) -> bytes:
    digest.update(repr(tuple(map(int, shape))).encode())
    return digest.digest()


def read_entry(path: Path) -> Entry | None:
    """The entry in a file; None where there is none, or it is not whole. The time of its last use becomes now."""
    tail = _whole(path)
    if tail is None:
        return None
    shape, digest = tail
    try:
        return Entry(_mapped(path, shape), digest)
    except (OSError, RuntimeError):  # deleted by another process just now
        return None


def _whole(path: Path) -> tuple[tuple[int, int, int, int], bytes] | None:
    """The shape and the digest in the tail of a file; None where the file is not there or not whole."""
    with suppress(OSError, ValueError), path.open("rb") as file:
        status = os.fstat(file.fileno())
        file.seek(-_TAIL.size, os.SEEK_END)
        mark, *sides, digest = _TAIL.unpack(file.read())
        shape = (sides[0], sides[1], sides[2], 3)
        if mark != _MARK or math.prod(shape) + _TAIL.size != status.st_size:
            return None
        if status.st_mtime_ns != _SEALED:
            file.seek(0)
            frames = (np.frombuffer(file.read(math.prod(shape[1:])), np.uint8) for _ in range(shape[0]))
            if _digest(frames, shape) != digest:
                return None
        with suppress(OSError):  # a folder that is shared may hold files of somebody else
            _seal(path)
        return shape, digest
    return None


def _mapped(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The frames at the beginning of a file. numpy.memmap would keep every file open, and a process may open few."""
    import torch

    tensor = torch.from_file(os.fspath(path), shared=False, size=math.prod(shape), dtype=torch.uint8)
    frames = tensor.numpy().reshape(shape)
    frames.flags.writeable = False
    return frames


def make_entry(video: Path, size: int, path: Path, *, wait: bool = True) -> bool:
    """Decode a video into the file `path`, unless another process has done so, or does so now.

    Args:
        video: as read_frames takes it.
        size: shorter side of the frames in pixels.
        path: the file to make.
        wait: wait for a process that makes the file now.

    Returns:
        Whether the file is there now; False only where another process makes it and `wait` is off.

    Raises:
        InputError: the video cannot be read.
        UnwritableError: the file cannot be written.
    """
    with _writing(), locked(path.with_suffix(".lock"), wait=wait) as held:
        if not held:
            return False
        if _whole(path) is None:
            _write(path, (fit(frame, size) for frame in _read(video)))
        return True


class _ReadError(Exception):
    """Carries an error of the video past what takes errors for those of the file that is written."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


def _read(video: Path) -> Iterator[np.ndarray]:
    try:
        yield from read_frames(video)
    except Exception as error:
        raise _ReadError(error) from error


@contextmanager
def _writing() -> Iterator[None]:
    """Tell errors of writing from errors of reading."""
    try:
        yield
    except _ReadError as error:
        raise error.reason from None
    except OSError as error:
        raise UnwritableError(error.strerror or str(error)) from error


def _write(path: Path, frames: Iterable[np.ndarray]) -> None:
    temporary = Temporary(path)
    try:
        digest, count, shape = hashlib.sha256(), 0, (0, 0, 3)
        with temporary.path.open("wb") as file:
            for frame in frames:
                pixels = np.ascontiguousarray(frame).data
                file.write(pixels)
                digest.update(pixels)
                count, shape = count + 1, frame.shape
            whole = _with_shape(digest, (count, *shape))
            file.write(_TAIL.pack(_MARK, count, shape[0], shape[1], whole))
            file.flush()
            os.fsync(file.fileno())
        _seal(temporary.path)
        temporary.path.replace(path)
    finally:
        temporary.close()


def _seal(path: Path) -> None:
    """Mark a whole file as such, and as used now."""
    os.utime(path, ns=(time.time_ns(), _SEALED))
