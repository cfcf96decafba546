"""Decoded pictures as RGB: colour matrix, range, transparency, wide colours and high dynamic range.

Numbers of matrices, primaries and transfer functions are those of ITU-T H.273, which libav takes over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlv2v_fast.errors import InputError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

BT709 = 1  # the matrix, the primaries and the transfer function share this value
LIMITED_RANGE = 1
_UNSPECIFIED = (0, 2, 3)  # RGB on a picture that is not, unspecified, reserved
_BT601 = 5
_READ_MATRICES = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 9})
_MATRIX_NAMES = {8: "YCgCo", 10: "BT.2020 constant luminance", 14: "ICtCp", 15: "IPT-C2"}
_PQ, _HLG = 16, 18
_HDR = {_PQ: "PQ", _HLG: "HLG"}
_LINEAR, _SRGB, _GAMMA22, _GAMMA28 = 8, 13, 4, 5

# Linear RGB of wide primaries (BT.2020, DCI-P3 with the white of D65, Display P3) in that of BT.709.
_P3 = ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979))
_TO_BT709 = {
    9: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    11: _P3,
    12: _P3,
}
_WIDE_NAMES = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}

# The light of white in an HDR picture (ITU-R BT.2408), and the brightest light that keeps any detail, in cd/m2.
_HDR_WHITE, _HDR_PEAK = 203.0, 1000.0
# Flags of libswscale: bilinear, and with whole chroma and exact rounding.
_FAST, _EXACT = 2, 2 | 0x2000 | 0x40000
# libswscale gives white of 16 bits this value where it comes from YUV.
_SCALED_WHITE = 0xFF00
# Light below this share of white keeps its value when highlights are compressed into what is left.
_KNEE = 0.7


@dataclass(frozen=True)
class Colours:
    """What a stream says of its colours. ``primaries`` and ``transfer`` are those of the frames as they are read."""

    primaries: int
    transfer: int
    notes: tuple[str, ...]


def guessed_matrix(width: int, height: int) -> int:
    """The colour matrix of a video that names none: BT.709 from 720 lines or 1280 columns up, BT.601 below.

    Players guess so, and cameras and encoders that leave the tag out count on it.
    """
    return BT709 if height >= 720 or width >= 1280 else _BT601


def is_yuv(frame: VideoFrame) -> bool:
    name = frame.format.name
    return not (frame.format.is_rgb or frame.format.has_palette or name.startswith(("gray", "ya8", "ya16", "mono")))


def colours_of(frame: VideoFrame) -> Colours:
    """How a frame of a video is read, and what there is to say of it.

    Raises:
        InputError: the colour matrix is one that cannot be read.
    """
    if is_yuv(frame) and frame.colorspace not in _READ_MATRICES:
        name = _MATRIX_NAMES.get(frame.colorspace, f"number {frame.colorspace}")
        raise InputError(f"its colour matrix must be BT.601, BT.709, BT.2020 or a relative of theirs, but it is {name}")
    notes = []
    if frame.color_trc in _HDR:
        notes.append(f"it is HDR ({_HDR[frame.color_trc]}): it is translated and written as SDR, with BT.709 colours")
    elif frame.color_primaries in _WIDE_NAMES:
        notes.append(f"its {_WIDE_NAMES[frame.color_primaries]} colours are converted to BT.709")
    if has_alpha(frame):
        notes.append("it is transparent in part: it is put on black")
    if _bits(frame) > 8:
        notes.append(f"its {_bits(frame)} bits a channel are rounded to 8")
    if frame.interlaced_frame:
        notes.append("it is interlaced: both fields of a picture are translated together, as they lie")
    primaries, transfer = frame.color_primaries, frame.color_trc
    if primaries in _UNSPECIFIED or _is_converted(frame):
        primaries = BT709
    if transfer in _UNSPECIFIED or transfer in _HDR or transfer == _LINEAR:
        transfer = BT709
    return Colours(primaries, transfer, tuple(notes))


def _bits(frame: VideoFrame) -> int:
    """Bits of a channel."""
    return max((component.bits for component in frame.format.components), default=8)


def has_alpha(frame: VideoFrame) -> bool:
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)


def rgb(frame: VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """The pixels of a decoded frame as ``(H, W, 3)`` uint8, in BT.709 or, where they differ little, its own primaries.

    An untagged matrix is guessed by :func:`guessed_matrix`; transparency is composited on black; HDR and wide colours
    are converted.
    """
    matrix = frame.colorspace
    if is_yuv(frame) and matrix in _UNSPECIFIED:
        matrix = guessed_matrix(frame.width, frame.height)
    convert = functools.partial(reformatter.reformat, frame, src_colorspace=matrix)
    if _is_converted(frame):
        white = _SCALED_WHITE if is_yuv(frame) else 65535
        return _converted(convert(format="rgb48le").to_ndarray(), white, frame.color_primaries, frame.color_trc)
    # The fast way from more than 8 bits makes white 253.
    quality = _EXACT if _bits(frame) > 8 else _FAST
    if has_alpha(frame):
        return on_black(convert(format="rgba", interpolation=quality).to_ndarray())
    return convert(format="rgb24", interpolation=quality).to_ndarray()


def on_black(rgba: np.ndarray) -> np.ndarray:
    """``(H, W, 4)`` uint8 pixels with straight alpha, composited on black, as ``(H, W, 3)``."""
    alpha = rgba[..., 3:].astype(np.uint16)
    if (alpha == 255).all():
        return np.ascontiguousarray(rgba[..., :3])
    return ((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8)


def _is_converted(frame: VideoFrame) -> bool:
    return frame.color_trc in _HDR or frame.color_trc == _LINEAR or frame.color_primaries in _TO_BT709


def _converted(codes: np.ndarray, white: int, primaries: int, transfer: int) -> np.ndarray:
    """``(H, W, 3)`` uint16 codes up to white as uint8 codes of BT.709 primaries, HDR compressed."""
    light = _decoded(transfer, white)[codes]
    if transfer == _HLG:
        # The system gamma of a screen that reaches the peak (ITU-R BT.2100).
        luma = light @ np.asarray((0.2627, 0.6780, 0.0593), np.float32)
        light *= np.power(luma, 0.2)[..., None] * np.float32(_HDR_PEAK / _HDR_WHITE)
    if primaries in _TO_BT709:
        light = light @ np.asarray(_TO_BT709[primaries], np.float32).T
    light = np.maximum(light, 0)
    if transfer in _HDR:
        brightest = light.max(axis=-1, keepdims=True)
        light *= _compressed(brightest) / np.maximum(brightest, 1e-6)
    # The table is over the square root, which has fine steps where the eye sees them.
    steps = np.sqrt(np.minimum(light, 1)) * 65535
    return _encoded(transfer)[np.rint(steps).astype(np.uint16)]


def _compressed(light: np.ndarray) -> np.ndarray:
    """Light relative to white, with what is above the knee bent so that the peak becomes 1. The slope has no step."""
    room, peak = 1 - _KNEE, _HDR_PEAK / _HDR_WHITE - _KNEE
    above = np.minimum((light - _KNEE) / peak, 1)
    slope = peak / room
    return np.where(light <= _KNEE, light, _KNEE + room * slope * above / (1 + (slope - 1) * above))


@functools.cache
def _decoded(transfer: int, white: int) -> np.ndarray:
    """Light of each 16-bit code, relative to white; for HLG, of the scene relative to its peak."""
    code = np.minimum(np.arange(65536) / white, 1)
    light: np.ndarray
    if transfer == _PQ:  # SMPTE ST 2084
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = code ** (1 / m2)
        light = 10000 / _HDR_WHITE * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    elif transfer == _HLG:  # ARIB STD-B67
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    else:
        light = _curve(transfer)(code)
    return light.astype(np.float32)


@functools.cache
def _encoded(transfer: int) -> np.ndarray:
    """The 8-bit code of light whose square root, times 65535, is the index."""
    code = np.linspace(0, 1, 4096)
    light = _curve(BT709 if transfer in _HDR or transfer == _LINEAR else transfer)(code)
    return np.rint(np.interp(np.linspace(0, 1, 65536) ** 2, light, code) * 255).astype(np.uint8)


def _curve(transfer: int) -> Callable[[np.ndarray], np.ndarray]:
    """What a screen makes of a code, both from 0 to 1."""
    if transfer == _LINEAR:
        return lambda code: code
    if transfer == _SRGB:
        return lambda code: np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    exponent = {_GAMMA22: 2.2, _GAMMA28: 2.8}.get(transfer, 2.4)  # 2.4: ITU-R BT.1886
    return lambda code: code**exponent
