"""bn_add_relu: normalization, residual sum, ReLU and a second normalization."""

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
    check_norm,
    dense,
    like,
    measured,
    second_derivatives,
    statistics,
)
from rlv2v_fast.ops.bn_stats import bn_stats
from rlv2v_fast.ops.schemas import LIBRARY
from rlv2v_fast.reference.bn import bn_add_relu_reference

Statistics = tuple[Tensor | None, Tensor | None]


def bn_add_relu(
    x: Tensor, skip: Tensor, norm: Norm, again: Norm | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Statistics, Statistics]:
    """again(relu(norm(x) + skip)).

    The sum is computed anew wherever it is needed rather than stored: in training only x and skip are kept.

    Args:
        x: (B, C, T, H, W), floating point; 16-bit ones are fused on CUDA only.
        skip: as x, or (B, C, T, H/2, W/2), repeated 2x2 (nearest upsampling).
        norm: the normalization of x.
        again: that of the rectified sum, or None; per_frame as norm.
        backend: "auto", "cpp" or "reference".

    Returns:
        z like x, twice differentiable in all tensors but frozen statistics; and the mean and biased variance that each
        normalization measured, (None, None) where it has frozen ones.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names it.
        RuntimeError: an explicit backend cannot run here.
    """
    _check(x, skip, norm, again)
    if choose("bn_add_relu", backend, {"cpp": lambda: bn_refusal(x)}) == "reference":
        z = bn_add_relu_reference(x, skip, norm, again)
        y = None if again is None else bn_add_relu_reference(x.detach(), skip.detach(), norm, None)
        return z, _measure(x, norm), _measure(y, again)
    x, layout = dense(x)
    per_frame, eps = norm.per_frame, 0.0
    others = (None, None, None, None, eps) if again is None else arguments(again, x)
    z, mean, var, mean_again, var_again = torch.ops.rlv2v_fast.bn_add_relu_fwd(
        x, skip.contiguous(memory_format=layout), *arguments(norm, x), *others, per_frame
    )
    return z, found(norm, mean, var), found(again, mean_again, var_again)


def found(norm: Norm | None, mean: Tensor, var: Tensor) -> Statistics:
    """The statistics that norm measured."""
    return (None, None) if norm is None or norm.mean is not None else (mean.detach(), var.detach())


def _measure(x: Tensor | None, norm: Norm | None) -> Statistics:
    if x is None or norm is None or norm.mean is not None:
        return None, None
    return bn_stats(x, per_frame=norm.per_frame, backend="reference")


def _check(x: Tensor, skip: Tensor, norm: Norm, again: Norm | None) -> None:
    check_clip(x)
    height, width = x.shape[3:]
    low = (*x.shape[:3], height // 2, width // 2)
    if skip.shape != x.shape and (skip.shape != low or height % 2 or width % 2):
        halved = "" if height % 2 or width % 2 else f" or {tuple(low)}"
        raise ValueError(f"skip must have shape {tuple(x.shape)}{halved}; got {tuple(skip.shape)}")
    check_operands(x, skip, norm, again)


def check_operands(x: Tensor, skip: Tensor, norm: Norm, again: Norm | None) -> None:
    """ValueError unless skip has the dtype and device of x, and both normalizations fit x and one another."""
    if skip.dtype != x.dtype or skip.device != x.device:
        raise ValueError(f"skip must be {x.dtype} on {x.device} like x; got {skip.dtype} on {skip.device}")
    check_norm("norm", norm, x)
    if again is not None:
        check_norm("again", again, x)
        if again.per_frame != norm.per_frame:
            raise ValueError(f"again.per_frame must be that of norm, {norm.per_frame}; got {again.per_frame}")


def _fwd_fake(
    x: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    weight_again: Tensor | None,
    bias_again: Tensor | None,
    mean_again: Tensor | None,
    var_again: Tensor | None,
    eps_again: float,
    per_frame: bool,
) -> tuple[Tensor, ...]:
    # Without a second normalization nothing is measured, as if its statistics were given.
    given = x if weight_again is None else mean_again
    again = measured(x, given, per_frame), measured(x, given, per_frame)
    return torch.empty_like(x), measured(x, mean, per_frame), measured(x, var, per_frame), *again


def _bwd_fake(grad_z: Tensor, x: Tensor, skip: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    weight_again = rest[5]
    of_again = weight.new_empty(0 if weight_again is None else weight.shape[0])
    grads = torch.empty_like(x), torch.empty_like(skip), torch.empty_like(weight), torch.empty_like(weight)
    return *grads, of_again, torch.empty_like(of_again)


def _save_fwd(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, skip, weight, bias, mean, var, ctx.eps, weight_again, bias_again, *rest = inputs
    mean_again, var_again, ctx.eps_again, ctx.per_frame = rest
    ctx.frozen, ctx.frozen_again = mean is not None, mean_again is not None
    statistics_again = (
        (None, None) if weight_again is None else (statistics(mean_again, output[3]), statistics(var_again, output[4]))
    )
    of_norm = statistics(mean, output[1]), statistics(var, output[2])
    ctx.save_for_backward(x, skip, weight, bias, *of_norm, weight_again, bias_again, *statistics_again)


def _fwd_autograd(ctx: Any, grad_z: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    grad_x, grad_skip, grad_weight, grad_bias, *of_again = torch.ops.rlv2v_fast.bn_add_relu_bwd(
        like(saved[0], grad_z), *saved[:6], ctx.eps, ctx.frozen, *saved[6:], ctx.eps_again, ctx.frozen_again,
        ctx.per_frame,
    )  # fmt: skip
    if saved[6] is None:
        of_again = [None, None]
    return grad_x, grad_skip, grad_weight, grad_bias, None, None, None, *of_again, None, None, None, None


def _save_bwd(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.eps, frozen = inputs[:9]
    weight_again, bias_again, mean_again, var_again, ctx.eps_again, frozen_again, ctx.per_frame = inputs[9:]
    if not frozen:
        tensors[5:] = None, None
    if not frozen_again:
        mean_again = var_again = None
    ctx.save_for_backward(*tensors, weight_again, bias_again, mean_again, var_again)


def _bwd_autograd(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    *saved, mean, var, weight_again, bias_again, mean_again, var_again = ctx.saved_tensors
    if weight_again is not None:
        saved += [weight_again, bias_again]

    def backward(grad_z: Tensor, *operands: Tensor) -> tuple[Tensor, ...]:
        x, skip, weight, bias, *rest = operands
        again = (*rest, mean_again, var_again, ctx.eps_again, ctx.per_frame) if rest else None
        z = bn_add_relu_reference(x, skip, (weight, bias, mean, var, ctx.eps, ctx.per_frame), again)
        return torch.autograd.grad(z, operands, grad_z, create_graph=True)

    seconds = second_derivatives(backward, saved, grads)
    of_again = seconds[5:] or (None, None)
    return *seconds[:5], None, None, None, None, *of_again, None, None, None, None, None


torch.library.register_fake("rlv2v_fast::bn_add_relu_fwd", _fwd_fake, lib=LIBRARY)
torch.library.register_fake("rlv2v_fast::bn_add_relu_bwd", _bwd_fake, lib=LIBRARY)
torch.library.register_autograd("rlv2v_fast::bn_add_relu_fwd", _fwd_autograd, setup_context=_save_fwd, lib=LIBRARY)
torch.library.register_autograd("rlv2v_fast::bn_add_relu_bwd", _bwd_autograd, setup_context=_save_bwd, lib=LIBRARY)
