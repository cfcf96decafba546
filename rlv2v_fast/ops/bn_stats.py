"""bn_stats: mean and variance of every channel in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from rlv2v_fast.ops.backends import choose
from rlv2v_fast.ops.bn import Norm, Statistics, bn_refusal, check_clip, dense, empty_statistics
from rlv2v_fast.ops.schemas import LIBRARY
from rlv2v_fast.reference.bn import bn_stats_reference


def bn_stats(x: Tensor, *, per_frame: bool = False, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Mean and biased variance of x: float sums over short runs, merged in double (Chan et al. 1979).

    Args:
        x: (B, C, T, H, W).
        per_frame: over (H, W) rather than (B, T, H, W).
        backend: "auto", "cpp" or "reference".

    Returns:
        mean, var: (C,), or (B, C, T) per frame; NaN where there are no values. They carry no gradient: the operators
        that normalize differentiate through their own statistics.

    Raises:
        ValueError: x is not five-dimensional.
        RuntimeError: an explicit backend cannot run here.
    """
    check_clip(x)
    with torch.no_grad():
        if choose("bn_stats", backend, {"cpp": lambda: bn_refusal(x)}) == "reference":
            return bn_stats_reference(x, per_frame)
        return torch.ops.rlv2v_fast.bn_stats(dense(x.detach())[0], per_frame)


def measure_by_reference(x: Tensor, norm: Norm) -> Statistics:
    """The statistics that norm takes from x, by PyTorch's own kernels; (None, None) where it has frozen ones."""
    if norm.mean is not None:
        return None, None
    return bn_stats(x, per_frame=norm.per_frame, backend="reference")


def _fake(x: Tensor, per_frame: bool) -> tuple[Tensor, Tensor]:
    return empty_statistics(x, per_frame), empty_statistics(x, per_frame)


torch.library.register_fake("rlv2v_fast::bn_stats", _fake, lib=LIBRARY)
