"""bn_add_relu: normalization, residual sum, ReLU and a second normalization."""

from __future__ import annotations

import torch
from torch import Tensor

from rlv2v_fast.ops.backends import choose
from rlv2v_fast.ops.bn import (
    Norm,
    Statistics,
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
from rlv2v_fast.reference.bn import bn_add_relu_reference


def bn_add_relu(
    x: Tensor, skip: Tensor, norm: Norm, post_norm: Norm | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Statistics, Statistics]:
    """post_norm(relu(norm(x) + skip)).

    The sum is computed anew wherever it is needed rather than stored: in training only x and skip are kept.

    Args:
        x: (B, C, T, H, W), floating point.
        skip: as x, or (B, C, T, H/2, W/2), repeated 2x2 (nearest upsampling).
        norm: the normalization of x.
        post_norm: that of the rectified sum, or None; per_frame as norm.
        backend: "auto", "cpp" or "reference".

    Returns:
        z like x, twice differentiable in all tensors but frozen statistics; and the mean and biased variance that each
        normalization measured, (None, None) where it has frozen ones.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names it.
        RuntimeError: an explicit backend cannot run here.
    """
    _check(x, skip, norm, post_norm)
    if choose("bn_add_relu", backend, {"cpp": lambda: bn_refusal(x)}) == "reference":
        z = bn_add_relu_reference(x, skip, norm, post_norm)
        if post_norm is None or post_norm.mean is not None:
            return z, measure_by_reference(x, norm), (None, None)
        y = bn_add_relu_reference(x.detach(), skip.detach(), norm, None)
        return z, measure_by_reference(x, norm), measure_by_reference(y, post_norm)
    x, layout = dense(x)
    post = (None, None, None, None, 0.0) if post_norm is None else arguments(post_norm, x)
    z, mean, var, post_mean, post_var = _OPERATOR(
        x, skip.contiguous(memory_format=layout), *arguments(norm, x), *post, norm.per_frame
    )
    return z, measured_by(norm, mean, var), measured_by(post_norm, post_mean, post_var)


def _check(x: Tensor, skip: Tensor, norm: Norm, post_norm: Norm | None) -> None:
    check_clip(x)
    height, width = x.shape[3:]
    low = (*x.shape[:3], height // 2, width // 2)
    if skip.shape != x.shape and (skip.shape != low or height % 2 or width % 2):
        halved = "" if height % 2 or width % 2 else f" or {tuple(low)}"
        raise ValueError(f"skip must have shape {tuple(x.shape)}{halved}; got {tuple(skip.shape)}")
    check_operands(x, skip, norm, post_norm)


def check_operands(x: Tensor, skip: Tensor, norm: Norm, post_norm: Norm | None) -> None:
    """ValueError unless skip has the dtype and device of x, and both normalizations fit x and one another."""
    if skip.dtype != x.dtype or skip.device != x.device:
        raise ValueError(f"skip must be {x.dtype} on {x.device} like x; got {skip.dtype} on {skip.device}")
    check_norm("norm", norm, x)
    if post_norm is not None:
        check_norm("post_norm", post_norm, x)
        if post_norm.per_frame != norm.per_frame:
            raise ValueError(f"post_norm.per_frame must be that of norm, {norm.per_frame}; got {post_norm.per_frame}")


def _fake(v: Values) -> tuple[Tensor, ...]:
    # Without post_norm nothing is measured for it, as if its statistics were given.
    post_given = v.x if v.post_weight is None else v.post_mean
    given = (v.mean, v.mean, post_given, post_given)
    return torch.empty_like(v.x), *(empty_measured(v.x, each, v.per_frame) for each in given)


def _formula(v: Values) -> tuple[Tensor]:
    post_norm = None if v.post_weight is None else norm_of(v, "post_")
    return (bn_add_relu_reference(v.x, v.skip, norm_of(v), post_norm),)


_OPERATOR = Operator("bn_add_relu", fake=_fake, reference=_formula, arguments=bwd_statistics, layout=layout_of_x)
