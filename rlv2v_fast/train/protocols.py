"""What training needs of the objects it is given."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class ClipSource(Protocol):
    """The training clips of one domain."""

    def batch(self, generator: torch.Generator, batch_size: int, window: int | None = None) -> Tensor:
        """Random clips: (batch_size, T, 3, size, size) floats in [-1, 1], or `window` frames of each."""

    def spread(self, count: int) -> Tensor:
        """Clips spread evenly over the domain, the same every time: (count, T, 3, size, size)."""

    def fingerprint(self) -> str:
        """A text that differs for different clips."""
