"""Which dtype sums are kept in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for the 16-bit dtypes, else the same: what statistics, parameters of norms and cell states are kept in.

    They sum over many values or steps, and a 16-bit sum loses what each adds.
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off for a device; the meta device has none, and PyTorch raises if asked about it."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
