"""The part of its pictures that a container shows, which libav's decoders leave to programs.

Source: RFC 9559, PixelCropTop and its siblings; ISO/IEC 14496-12, clean aperture box.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

_SEGMENT, _CLUSTER, _TRACKS, _ENTRY, _VIDEO = 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE, 0xE0
_EDGES = {0x54BB: "top", 0x54AA: "bottom", 0x54CC: "left", 0x54DD: "right"}
# A header larger than this, in bytes, is not searched.
_LARGEST = 2**26


@dataclass(frozen=True)
class Cropping:
    """Lines and columns at the edges of a decoded picture that are not shown."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """What is shown of ``(H, W, 3)`` pixels."""
        height, width = self.size(*pixels.shape[:2])
        if (height, width) == pixels.shape[:2]:
            return pixels
        return pixels[self.top : self.top + height, self.left : self.left + width]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """What is shown of a height and a width in pixels; all where nothing would be left."""
        shown = height - self.top - self.bottom, width - self.left - self.right
        return shown if min(shown) > 0 else (height, width)


def cropping_of(path: Path, container: str, stream: int) -> Cropping:
    """How the container of a file crops a stream, whose index libav counts among all streams from 0."""
    try:
        with path.open("rb") as file:
            if "matroska" in container:
                found = _of_matroska(file)
            elif "mov" in container:
                found = _of_mp4(file)
            else:
                return Cropping()
        return found[stream] if stream < len(found) else Cropping()
    except (OSError, ArithmeticError, struct.error, ValueError):  # decoding says what is wrong with the file
        return Cropping()


def _of_matroska(file: BinaryIO) -> list[Cropping]:
    for identity, size in _elements(file, None):
        if identity == _SEGMENT:
            for inner, length in _elements(file, size):
                if inner == _TRACKS:
                    entries = io.BytesIO(_taken(file, length))
                    return [_of_entry(_taken(entries, n)) for i, n in _elements(entries, length) if i == _ENTRY]
                if inner == _CLUSTER or length is None:
                    return []
                file.seek(length, io.SEEK_CUR)
        if size is None:
            break
        file.seek(size, io.SEEK_CUR)
    return []


def _of_entry(data: bytes) -> Cropping:
    edges: dict[str, int] = {}
    entry = io.BytesIO(data)
    for identity, size in _elements(entry, len(data)):
        content = _taken(entry, size)
        if identity == _VIDEO:
            video = io.BytesIO(content)
            for inner, length in _elements(video, size):
                value = _taken(video, length)
                if inner in _EDGES:
                    edges[_EDGES[inner]] = int.from_bytes(value, "big")
    return Cropping(**edges)


def _elements(file: BinaryIO, size: int | None) -> Iterator[tuple[int, int | None]]:
    """The identity and the size of each element of EBML; the reader stands at its content, and has to pass it."""
    end = None if size is None else file.tell() + size
    while end is None or file.tell() < end:
        first = file.read(1)
        if not first:
            return
        identity = int.from_bytes(first + file.read(8 - first[0].bit_length()), "big")
        first = file.read(1)
        if not first or not first[0]:
            return
        more = 8 - first[0].bit_length()
        bits = 7 * (more + 1)
        length = int.from_bytes(first + file.read(more), "big") & (2**bits - 1)
        yield identity, None if length == 2**bits - 1 else length


def _taken(file: BinaryIO, size: int | None) -> bytes:
    if size is None or size > _LARGEST:
        raise ValueError("it is larger than a header")
    return file.read(size)


def _of_mp4(file: BinaryIO) -> list[Cropping]:
    for kind, size in _boxes(file):
        if kind == b"moov":
            movie = _taken(file, size)
            return [_of_track(track) for name, track in _inside(movie) if name == b"trak"]
        file.seek(size, io.SEEK_CUR)
    return []


def _of_track(track: bytes) -> Cropping:
    for name in (b"mdia", b"minf", b"stbl", b"stsd"):
        track = dict(_inside(track)).get(name, b"")
    entry = next((data for _, data in _inside(track[8:])), b"")  # after version, flags and count
    # A picture's entry has 78 bytes before its boxes: the size is in the middle of them.
    aperture = dict(_inside(entry[78:])).get(b"clap", b"")
    if len(aperture) != 32:
        return Cropping()
    width, height = struct.unpack_from(">HH", entry, 24)
    parts = struct.unpack(">iIiIiIiI", aperture)
    shown_width, shown_height, x, y = (Fraction(n, d) for n, d in zip(parts[::2], parts[1::2], strict=True))
    left, top = round((width - shown_width) / 2 + x), round((height - shown_height) / 2 + y)
    right, bottom = width - left - round(shown_width), height - top - round(shown_height)
    edges = (top, bottom, left, right)
    return Cropping(*edges) if min(edges) >= 0 and shown_width > 0 and shown_height > 0 else Cropping()


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The kind of each box and the size of its content, which the reader stands at and has to pass."""
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        used = 8
        if size == 1:
            size, used = struct.unpack(">Q", file.read(8))[0], 16
        if size < used:
            return
        yield kind, size - used


def _inside(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    file = io.BytesIO(data)
    for kind, size in _boxes(file):
        yield kind, file.read(size)
