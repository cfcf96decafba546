"""What training needs of the objects it is given."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class ClipSource(Protocol):
    """A domain as the trainer sees it."""

    def batch(self, generator: torch.Generator, batch_size: int) -> Tensor:
        """(batch_size, T, 3, size, size) floats in [-1, 1]."""

    def spread(self, count: int) -> Tensor:
        """(count, T, 3, size, size): clips that stand for the domain, the same every time."""

    def fingerprint(self) -> str:
        """Text that changes when the clips do."""
