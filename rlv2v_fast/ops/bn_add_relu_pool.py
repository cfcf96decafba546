"""bn_add_relu_pool: normalization, residual sum, ReLU, spatial max pooling and a second normalization."""

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
    dense,
    empty_measured,
    layout_of_x,
    measured_by,
    norm_of,
)
from rlv2v_fast.ops.bn_add_relu import check_operands
from rlv2v_fast.ops.bn_stats import measure_by_reference
from rlv2v_fast.ops.register import Operator, Values
from rlv2v_fast.ops.schemas import SCHEMAS
from rlv2v_fast.reference.blocks import pool_reference
from rlv2v_fast.reference.bn import (
    bn_add_relu_pool_bwd_reference,
    bn_add_relu_pool_reference,
    bn_add_relu_reference,
)


def bn_add_relu_pool(
    x: Tensor, skip: Tensor, norm: Norm, post_norm: Norm, *, backend: str = "auto"
) -> tuple[Tensor, Statistics, Statistics]:
    """post_norm(maxpool(relu(norm(x) + skip))) with windows 1x2x2; odd H and W are floored.

    For its backward it keeps x, what the pooling gave, and a byte for the place of each maximum.

    Args:
        x, skip: (B, C, T, H, W), H and W at least 2, floating point.
        norm: the normalization of x.
        post_norm: that of the pooled tensor; per_frame as norm.
        backend: "auto", "cpp" or "reference".

    Returns:
        z (B, C, T, H // 2, W // 2), twice differentiable in all tensors but frozen statistics; and the mean and biased
        variance that each normalization measured, (None, None) where it has frozen ones.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names it.
        RuntimeError: an explicit backend cannot run here.
    """
    _check(x, skip, norm, post_norm)
    if choose("bn_add_relu_pool", backend, {"cpp": lambda: bn_refusal(x)}) == "reference":
        return _reference(x, skip, norm, post_norm)
    x, layout = dense(x)
    z, _, _, mean, var, post_mean, post_var = _OPERATOR(
        x, skip.contiguous(memory_format=layout), *arguments(norm, x), *arguments(post_norm, x), norm.per_frame
    )
    return z, measured_by(norm, mean, var), measured_by(post_norm, post_mean, post_var)


def _reference(x: Tensor, skip: Tensor, norm: Norm, post_norm: Norm) -> tuple[Tensor, Statistics, Statistics]:
    z = bn_add_relu_pool_reference(x, skip, norm, post_norm)
    if post_norm.mean is not None:
        return z, measure_by_reference(x, norm), (None, None)
    pooled = pool_reference(bn_add_relu_reference(x.detach(), skip.detach(), norm, None))
    return z, measure_by_reference(x, norm), measure_by_reference(pooled, post_norm)


def _check(x: Tensor, skip: Tensor, norm: Norm, post_norm: Norm) -> None:
    check_clip(x)
    if min(x.shape[3:]) < 2:
        raise ValueError(f"x must have H and W of at least 2; got {tuple(x.shape)}")
    if skip.shape != x.shape:
        raise ValueError(f"skip must have shape {tuple(x.shape)}; got {tuple(skip.shape)}")
    check_operands(x, skip, norm, post_norm)


def _fake(v: Values) -> tuple[Tensor, ...]:
    shape = (*v.x.shape[:3], v.x.shape[3] // 2, v.x.shape[4] // 2)
    z = torch.empty(shape, dtype=v.x.dtype, device=v.x.device, memory_format=layout_of_x(v))
    given = (v.mean, v.var, v.post_mean, v.post_var)
    statistics = (empty_measured(v.x, each, v.per_frame) for each in given)
    return z, torch.empty_like(z), torch.empty_like(z, dtype=torch.uint8), *statistics


def _fake_bwd(v: Values) -> tuple[Tensor, ...]:
    # The gradient of skip, which is no argument of the backward, is like that of x.
    like = (v.x, v.x, v.weight, v.bias, v.post_weight, v.post_bias)
    return tuple(torch.empty_like(each) for each in like)


def _gradients(v: Values) -> dict[str, Tensor]:
    post_norm = norm_of(v, "post_")
    grad_largest = getattr(v, "grad_largest", None)
    grads = bn_add_relu_pool_bwd_reference(v.grad_z, v.x, v.largest, v.index, norm_of(v), post_norm, grad_largest)
    return dict(zip(SCHEMAS["bn_add_relu_pool_bwd"].results, grads, strict=True))


def _backward(v: Values) -> dict[str, Tensor]:
    """Gradients that come through z, and those through `largest`, where a second derivative leads."""
    grads = _OPERATOR.run_bwd(v)
    if v.grad_largest is None:
        return grads
    # largest is what z is where post_norm changes nothing.
    unchanged = {
        "post_weight": torch.ones_like(v.post_weight),
        "post_bias": torch.zeros_like(v.post_bias),
        "post_mean": torch.zeros_like(v.post_mean),
        "post_var": torch.ones_like(v.post_var),
        "post_eps": 0.0,
        "post_frozen": True,
        "grad_z": v.grad_largest,
    }
    through = _OPERATOR.run_bwd(Values(**(vars(v) | unchanged)))
    for name in ("grad_x", "grad_skip", "grad_weight", "grad_bias"):
        grads[name] = grads[name] + through[name]
    return grads


_OPERATOR = Operator(
    "bn_add_relu_pool",
    fake=_fake,
    fake_bwd=_fake_bwd,
    gradients=_gradients,
    arguments=bwd_statistics,
    layout=layout_of_x,
    intermediates=("largest",),
    constants=("index",),
    backward=_backward,
)
