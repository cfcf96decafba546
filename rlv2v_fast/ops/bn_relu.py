"""bn_relu: normalization and ReLU, one read of x to measure, and one read and one write to normalize."""

from __future__ import annotations

import torch
from torch import Tensor

from rlv2v_fast.ops.backends import choose
from rlv2v_fast.ops.bn import (
    Norm,
    arguments,
    bn_refusal,
    bwd_statistics,
    check_clip,
    check_norm,
    dense,
    empty_measured,
    layout_of_x,
    measured_by,
    norm_of,
)
from rlv2v_fast.ops.bn_stats import measure_by_reference
from rlv2v_fast.ops.register import Operator, Values
from rlv2v_fast.reference.bn import bn_relu_reference


def bn_relu(x: Tensor, norm: Norm, *, backend: str = "auto") -> tuple[Tensor, Tensor | None, Tensor | None]:
    """relu(norm(x)).

    Args:
        x: (B, C, T, H, W), floating point.
        norm: the normalization.
        backend: "auto", "cpp" or "reference".

    Returns:
        y like x, twice differentiable in x, weight and bias; and the mean and biased variance measured, without a
        gradient, or None, None where norm has frozen ones.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names it.
        RuntimeError: an explicit backend cannot run here.
    """
    check_clip(x)
    check_norm("norm", norm, x)
    if choose("bn_relu", backend, {"cpp": lambda: bn_refusal(x)}) == "reference":
        return bn_relu_reference(x, *norm), *measure_by_reference(x, norm)
    y, mean, var = _OPERATOR(dense(x)[0], *arguments(norm, x), norm.per_frame)
    return y, *measured_by(norm, mean, var)


def _fake(v: Values) -> tuple[Tensor, ...]:
    return torch.empty_like(v.x), *(empty_measured(v.x, given, v.per_frame) for given in (v.mean, v.var))


def _formula(v: Values) -> tuple[Tensor]:
    return (bn_relu_reference(v.x, *norm_of(v)),)


_OPERATOR = Operator("bn_relu", fake=_fake, reference=_formula, arguments=bwd_statistics, layout=layout_of_x)
