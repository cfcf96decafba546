"""Frames one by one, as a camera gives them, and as pieces of a video."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Frame = TypeVar("Frame", Tensor, np.ndarray)


def stream_frames(
    frames: Iterable[Frame], translated: Callable[[Iterator[Tensor]], Iterator[Tensor]], device: torch.device
) -> Iterator[Frame]:
    """The translation of each frame, as soon as it is there, of the kind that the frame is.

    Args:
        frames: (C, H, W) tensors, or (H, W, C) uint8 arrays, all of one shape, dtype and kind.
        translated: gives the translations of pieces (1, 1, C, H, W) on the device, one for one.

    Raises:
        ValueError: a frame has another number of dimensions, or is not like the first.
    """
    homes: deque[torch.device | None] = deque()

    def pieces() -> Iterator[Tensor]:
        first: tuple[object, ...] | None = None
        for index, frame in enumerate(frames):
            like = (type(frame), frame.dtype, tuple(frame.shape))
            first = first or like
            if like != first:
                raise ValueError(f"frame {index} must be like the first, {_words(first)}; got {_words(like)}")
            homes.append(frame.device if isinstance(frame, Tensor) else None)
            yield _piece(frame).to(device)

    for piece in translated(pieces()):
        home = homes.popleft()
        # mypy knows one kind of frame at a time.
        yield _array(piece) if home is None else piece[0, 0].to(home)  # type: ignore[misc]


def _piece(frame: Tensor | np.ndarray) -> Tensor:
    if frame.ndim != 3:
        expected = "(C, H, W)" if isinstance(frame, Tensor) else "(H, W, C)"
        raise ValueError(f"frames must have shape {expected}; got {tuple(frame.shape)}")
    if isinstance(frame, Tensor):
        return frame[None, None]
    if frame.dtype != np.uint8:
        raise ValueError(f"frames that are arrays must be uint8; got {frame.dtype}")
    # A copy, because a camera may write its next frame into the same memory.
    return torch.from_numpy(frame.transpose(2, 0, 1).copy())[None, None]


def _array(piece: Tensor) -> np.ndarray:
    return np.ascontiguousarray(piece[0, 0].movedim(0, -1).cpu().numpy())


def _words(like: tuple[object, ...]) -> str:
    kind, dtype, shape = like
    return f"{getattr(kind, '__name__', kind)} of {dtype} {shape}"
