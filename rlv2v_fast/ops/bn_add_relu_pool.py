"""bn_add_relu_pool: normalization, residual sum, ReLU, spatial max pooling and a second normalization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlv2v_fast.ops.backends import choose
from rlv2v_fast.ops.bn import (
    Norm,
    arguments,
    bn_refusal,
    check_clip,
    dense,
    empty_statistics,
    like,
    measured,
    second_derivatives,
    statistics,
)
from rlv2v_fast.ops.bn_add_relu import Statistics, check_operands, found
from rlv2v_fast.ops.bn_stats import bn_stats
from rlv2v_fast.ops.schemas import LIBRARY
from rlv2v_fast.reference.blocks import pool_reference
from rlv2v_fast.reference.bn import (
    bn_add_relu_pool_bwd_reference,
    bn_add_relu_pool_reference,
    bn_add_relu_reference,
)


def bn_add_relu_pool(
    x: Tensor, skip: Tensor, norm: Norm, again: Norm, *, backend: str = "auto"
) -> tuple[Tensor, Statistics, Statistics]:
    """again(maxpool(relu(norm(x) + skip))) with windows 1x2x2; odd H and W are floored.

    For its backward it keeps x, what the pooling gave, and a byte for the place of each maximum.

    Args:
        x, skip: (B, C, T, H, W), H and W at least 2, floating point; 16-bit ones are fused on CUDA only.
        norm: the normalization of x.
        again: that of the pooled tensor; per_frame as norm.
        backend: "auto", "cpp" or "reference".

    Returns:
        z (B, C, T, H // 2, W // 2), twice differentiable in all tensors but frozen statistics; and the mean and biased
        variance that each normalization measured, (None, None) where it has frozen ones.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names it.
        RuntimeError: an explicit backend cannot run here.
    """
    _check(x, skip, norm, again)
    if choose("bn_add_relu_pool", backend, {"cpp": lambda: bn_refusal(x)}) == "reference":
        return _reference(x, skip, norm, again)
    x, layout = dense(x)
    z, _, _, mean, var, mean_again, var_again = torch.ops.rlv2v_fast.bn_add_relu_pool_fwd(
        x, skip.contiguous(memory_format=layout), *arguments(norm, x), *arguments(again, x), norm.per_frame
    )
    return z, found(norm, mean, var), found(again, mean_again, var_again)


def _reference(x: Tensor, skip: Tensor, norm: Norm, again: Norm) -> tuple[Tensor, Statistics, Statistics]:
    z = bn_add_relu_pool_reference(x, skip, norm, again)
    first: Statistics = (None, None)
    second: Statistics = (None, None)
    with torch.no_grad():
        if norm.mean is None:
            first = bn_stats(x, per_frame=norm.per_frame, backend="reference")
        if again.mean is None:
            pooled = pool_reference(bn_add_relu_reference(x, skip, norm, None))
            second = bn_stats(pooled, per_frame=norm.per_frame, backend="reference")
    return z, first, second


def _check(x: Tensor, skip: Tensor, norm: Norm, again: Norm) -> None:
    check_clip(x)
    if min(x.shape[3:]) < 2:
        raise ValueError(f"x must have H and W of at least 2; got {tuple(x.shape)}")
    if skip.shape != x.shape:
        raise ValueError(f"skip must have shape {tuple(x.shape)}; got {tuple(skip.shape)}")
    check_operands(x, skip, norm, again)


def _fwd_fake(
    x: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    weight_again: Tensor,
    bias_again: Tensor,
    mean_again: Tensor | None,
    var_again: Tensor | None,
    eps_again: float,
    per_frame: bool,
) -> tuple[Tensor, ...]:
    layout = dense(x)[1]
    shape = (*x.shape[:3], x.shape[3] // 2, x.shape[4] // 2)
    z = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    index = torch.empty_like(z, dtype=torch.uint8)
    found = [measured(x, given, per_frame) for given in (mean, var, mean_again, var_again)]
    return z, torch.empty_like(z), index, *found


def _bwd_fake(grad_z: Tensor, x: Tensor, largest: Tensor, index: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(x), torch.empty_like(x), *(torch.empty_like(weight) for _ in range(4))


def _save_fwd(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, weight, bias, mean, var, ctx.eps, weight_again, bias_again, mean_again, var_again, *rest = inputs
    ctx.eps_again, ctx.per_frame = rest
    ctx.frozen, ctx.frozen_again = mean is not None, mean_again is not None
    ctx.set_materialize_grads(False)
    of_norm = statistics(mean, output[3]), statistics(var, output[4])
    of_again = statistics(mean_again, output[5]), statistics(var_again, output[6])
    ctx.save_for_backward(x, output[1], output[2], weight, bias, *of_norm, weight_again, bias_again, *of_again)


def _fwd_autograd(ctx: Any, grad_z: Tensor | None, grad_largest: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    """The gradient of z, and that of `largest`, which the backward operator reads: a second derivative goes there."""
    x, largest, index, *of_norm = ctx.saved_tensors[:7]
    of_again = ctx.saved_tensors[7:]
    grads: list[Tensor | None] = [None] * 6
    if grad_z is not None:
        grads = list(_bwd(ctx, grad_z, x, largest, index, of_norm, of_again, ctx.eps_again, ctx.frozen_again))
    if grad_largest is not None:
        one, zero = torch.ones_like(of_again[0]), torch.zeros_like(of_again[0])
        through = _bwd(ctx, grad_largest, x, largest, index, of_norm, _identity(x, one, zero, ctx), 0.0, True)
        grads[:4] = [a if b is None else a + b for a, b in zip(through[:4], grads, strict=False)]
    return *grads[:4], None, None, None, *grads[4:], None, None, None, None


def _bwd(
    ctx: Any, grad: Tensor, x: Tensor, largest: Tensor, index: Tensor, of_norm: Any, of_again: Any, eps: float,
    frozen: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    return torch.ops.rlv2v_fast.bn_add_relu_pool_bwd(
        like(x, grad), x, largest, index, *of_norm, ctx.eps, ctx.frozen, *of_again, eps, frozen, ctx.per_frame
    )


def _identity(x: Tensor, one: Tensor, zero: Tensor, ctx: Any) -> tuple[Tensor, ...]:
    """weight, bias, mean and var of a normalization that changes nothing."""
    mean = torch.zeros_like(empty_statistics(x, ctx.per_frame))
    return one, zero, mean, torch.ones_like(mean)


def _save_bwd(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_z, x, largest, index, weight, bias, mean, var, ctx.eps, frozen, *of_again = inputs
    weight_again, bias_again, mean_again, var_again, ctx.eps_again, frozen_again, ctx.per_frame = of_again
    if not frozen:
        mean = var = None
    if not frozen_again:
        mean_again = var_again = None
    ctx.save_for_backward(
        grad_z, x, largest, weight, bias, weight_again, bias_again, index, mean, var, mean_again, var_again
    )


def _bwd_autograd(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    index, mean, var, mean_again, var_again = ctx.saved_tensors[7:]

    def backward(*inputs: Tensor) -> tuple[Tensor, ...]:
        grad_z, x, largest, weight, bias, weight_again, bias_again = inputs
        norm = (weight, bias, mean, var, ctx.eps, ctx.per_frame)
        again = (weight_again, bias_again, mean_again, var_again, ctx.eps_again, ctx.per_frame)
        return bn_add_relu_pool_bwd_reference(grad_z, x, largest, index, norm, again)

    seconds = second_derivatives(backward, ctx.saved_tensors[:7], grads)
    return *seconds[:3], None, *seconds[3:5], None, None, None, None, *seconds[5:], None, None, None, None, None


torch.library.register_fake("rlv2v_fast::bn_add_relu_pool_fwd", _fwd_fake, lib=LIBRARY)
torch.library.register_fake("rlv2v_fast::bn_add_relu_pool_bwd", _bwd_fake, lib=LIBRARY)
torch.library.register_autograd("rlv2v_fast::bn_add_relu_pool_fwd", _fwd_autograd, setup_context=_save_fwd, lib=LIBRARY)
torch.library.register_autograd("rlv2v_fast::bn_add_relu_pool_bwd", _bwd_autograd, setup_context=_save_bwd, lib=LIBRARY)
