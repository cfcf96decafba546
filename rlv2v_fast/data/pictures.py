"""Reading pictures by Pillow: folders of frames, GIF and WebP."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps

from rlv2v_fast.data.colour import on_black
from rlv2v_fast.data.names import USUAL_FRAMES, check_pixels, damaged, frame_files
from rlv2v_fast.errors import InputError

_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)
# What browsers show pictures for that declare no time, or for GIF less than 20 ms, in ms.
_UNTIMED = 100


def rgb(image: Image.Image) -> np.ndarray:
    """Pixels ``(H, W, 3)`` uint8 of a Pillow picture in sRGB, transparency composited on black."""
    if image.mode.startswith("I"):  # 16-bit gray, which convert() would clip instead of scale
        gray = (np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    image = _in_srgb(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    return on_black(np.asarray(image.convert("RGBA")))


def _in_srgb(image: Image.Image) -> Image.Image:
    """The picture with its colour profile, where it has one, applied; unchanged where the profile does not fit."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(own).lower():
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError):
        return image
    assert converted is not None
    if "transparency" in image.info and image.mode != "RGB":
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    return converted


def notes_of(image: Image.Image) -> tuple[str, ...]:
    """What there is to say of how a picture is read."""
    notes = []
    clear = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if clear and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        notes.append("it is transparent in part: it is put on black")
    if image.mode.startswith("I"):
        notes.append("its 16 bits a channel are rounded to 8")
    return tuple(notes)


def plays_of(image: Image.Image) -> int:
    """How often an animation is shown; 0 for without end."""
    # GIF counts the repeats, and without a count is shown once.
    if image.format == "WEBP":
        return int(image.info.get("loop", 0))
    repeats = image.info.get("loop")
    return 1 if repeats is None else repeats + 1 if repeats else 0


def read_folder(path: Path) -> Iterator[Image.Image]:
    """The pictures directly in a folder, turned as their EXIF data say."""
    files = frame_files(path)
    if not files:
        raise InputError(f"video '{path}' must be a folder of {USUAL_FRAMES} frames, but it holds none")
    for file in files:
        try:
            with Image.open(file) as image:
                check_pixels(f"video '{file}'", *image.size)
                yield ImageOps.exif_transpose(image)
        except InputError:
            raise
        except _ERRORS as error:
            raise damaged(file, error) from error


def animation_times(path: Path) -> list[int]:
    """How long each picture of a GIF or WebP is shown, in milliseconds."""
    try:
        with path.open("rb") as file:
            return _gif_times(file) if path.suffix.lower() == ".gif" else _webp_times(file)
    except _ERRORS as error:
        raise damaged(path, error) from error


def read_animation(path: Path) -> Iterator[Image.Image]:
    """Each picture of a GIF or WebP, whole."""
    declared = len(animation_times(path))
    try:
        with Image.open(path, formats=["GIF", "WEBP"]) as image:
            check_pixels(f"video '{path}'", *image.size)
            for index in range(declared):
                image.seek(index)
                image.load()
                yield image
    except InputError:
        raise
    except _ERRORS as error:
        raise damaged(path, error) from error


def simplest_rate(frames: int, total_ms: int, step_ms: int) -> Fraction:
    """The simplest rate (whole, NTSC or a small fraction) whose total time rounds to ``total_ms`` in ``step_ms``."""
    exact = Fraction(1000 * frames, total_ms)
    ntsc = Fraction(1000, 1001)
    units = [Fraction(1), ntsc, *(Fraction(1, denominator) for denominator in range(2, 1001))]
    for rate in (round(exact / unit) * unit for unit in units):
        if rate and abs(1000 * frames / rate - total_ms) * 2 <= step_ms:
            return rate
    return exact


def _gif_times(file: BinaryIO) -> list[int]:
    """Times of the pictures in the blocks of a GIF. Pillow takes a broken block for the end of the file.

    Raises:
        ValueError: the blocks do not run on to the trailer.
    """
    header = _exactly(file, 13)
    if header[:6] not in (b"GIF87a", b"GIF89a"):
        raise ValueError("it has no GIF header")
    _skip_palette(file, header[10])
    times, delay = [], 0
    while (kind := _exactly(file, 1)) != b";":
        if kind == b",":
            times.append(delay if delay >= 20 else _UNTIMED)
            delay = 0
            _skip_palette(file, _exactly(file, 9)[8])
        elif kind != b"!":
            raise ValueError(f"unknown GIF block {kind.hex()}")
        label = _exactly(file, 1)  # the LZW code size of a picture, the label of an extension
        while size := _exactly(file, 1)[0]:
            block = _exactly(file, size)
            if kind == b"!" and label == b"\xf9" and size == 4:
                delay = 10 * int.from_bytes(block[1:3], "little")
    return times


def _skip_palette(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        _exactly(file, 3 * 2 ** ((flags & 7) + 1))


def _webp_times(file: BinaryIO) -> list[int]:
    """Times of the pictures in the chunks of a WebP.

    Raises:
        ValueError: the chunks do not fill the size that the header declares.
    """
    riff, left, kind = struct.unpack("<4sI4s", _exactly(file, 12))
    if riff != b"RIFF" or kind != b"WEBP":
        raise ValueError("it has no WebP header")
    left -= 4
    times = []
    while left > 0:
        kind, size = struct.unpack("<4sI", _exactly(file, 8))
        size += size % 2
        if size + 8 > left:
            raise ValueError("a WebP chunk runs past the end")
        data = _exactly(file, size)
        if kind == b"ANMF":
            times.append(int.from_bytes(data[12:15], "little") or _UNTIMED)
        left -= 8 + size
    return times or [_UNTIMED]


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it ends early")
    return data
