"""bn_relu: normalization and ReLU, one read and one write of what does not fit the cache."""

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
from rlv2v_fast.reference.bn import bn_relu_reference


def bn_relu(x: Tensor, norm: Norm, *, backend: str = "auto") -> tuple[Tensor, Tensor | None, Tensor | None]:
    """relu(norm(x)).

    Args:
        x: (B, C, T, H, W), floating point; 16-bit ones are fused on CUDA only.
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
        found = (None, None) if norm.mean is not None else bn_stats(x, per_frame=norm.per_frame, backend="reference")
        return bn_relu_reference(x, *norm), *found
    y, mean, var = torch.ops.rlv2v_fast.bn_relu_fwd(dense(x)[0], *arguments(norm, x), norm.per_frame)
    return (y, None, None) if norm.mean is not None else (y, mean.detach(), var.detach())


def _fwd_fake(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, var: Tensor | None, eps: float, per_frame: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), measured(x, mean, per_frame), measured(x, var, per_frame)


def _bwd_fake(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    per_frame: bool,
    frozen: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _save_fwd(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, mean, var, ctx.eps, ctx.per_frame = inputs
    ctx.frozen = mean is not None
    ctx.save_for_backward(x, weight, bias, statistics(mean, output[1]), statistics(var, output[2]))


def _fwd_autograd(ctx: Any, grad_y: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    grads = torch.ops.rlv2v_fast.bn_relu_bwd(like(saved[0], grad_y), *saved, ctx.eps, ctx.per_frame, ctx.frozen)
    return *grads, None, None, None, None


def _save_bwd(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_y, x, weight, bias, mean, var, ctx.eps, ctx.per_frame, frozen = inputs
    ctx.save_for_backward(grad_y, x, weight, bias, *((mean, var) if frozen else (None, None)))


def _bwd_autograd(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    def backward(grad_y: Tensor, *operands: Tensor) -> tuple[Tensor, ...]:
        y = bn_relu_reference(*operands, *ctx.saved_tensors[4:], ctx.eps, ctx.per_frame)
        return torch.autograd.grad(y, operands, grad_y, create_graph=True)

    return *second_derivatives(backward, ctx.saved_tensors[:4], grads), None, None, None, None, None


torch.library.register_fake("rlv2v_fast::bn_relu_fwd", _fwd_fake, lib=LIBRARY)
torch.library.register_fake("rlv2v_fast::bn_relu_bwd", _bwd_fake, lib=LIBRARY)
torch.library.register_autograd("rlv2v_fast::bn_relu_fwd", _fwd_autograd, setup_context=_save_fwd, lib=LIBRARY)
torch.library.register_autograd("rlv2v_fast::bn_relu_bwd", _bwd_autograd, setup_context=_save_bwd, lib=LIBRARY)
