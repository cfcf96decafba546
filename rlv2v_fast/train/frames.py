"""Frames on their way into a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from rlv2v_fast.data.video import to_tensor


def pieces(frames: Iterable[np.ndarray], chunk: int, device: torch.device) -> Iterator[Tensor]:
    """Tensors (1, t, 3, H, W) in [-1, 1] of at most `chunk` consecutive (H, W, 3) uint8 frames each."""
    stream = iter(frames)
    while group := list(itertools.islice(stream, chunk)):
        yield to_tensor(np.stack(group)).unsqueeze(0).to(device)
