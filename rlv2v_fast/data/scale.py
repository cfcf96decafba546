"""Frames made smaller before they are translated."""

from __future__ import annotations

import numpy as np
from PIL import Image


def lowered(width: int, height: int, most: int | None) -> tuple[int, int]:
    """The width and height of frames that are at most `most` pixels high, of the same shape, with an even width.

    Frames that are not higher are left as they are, whatever their width.
    """
    if most is None or height <= most:
        return width, height
    return max(2, 2 * round(width * most / height / 2)), most


def scaled(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The frame ``(H, W, 3)`` uint8 at a width and height, with antialiasing."""
    if frame.shape[1::-1] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
