"""convlstm_gates: everything of a ConvLSTM step that follows its convolution, in one pass over memory."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from rlv2v_fast.ops.backends import choose, cpp_refusal
from rlv2v_fast.ops.convlstm_triton import on_device_of, triton_refusal
from rlv2v_fast.ops.schemas import LIBRARY
from rlv2v_fast.reference.convlstm import (
    convlstm_gates_bwd_reference,
    convlstm_gates_reference,
    state_dtype,
)


def convlstm_gates(gates: Tensor, c: Tensor, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """h, c' of the ConvLSTM cell from its gate pre-activations: c' = f c + i g, h = o tanh(c').

    Args:
        gates: (B, 4K, H, W) in order i, f, o, g.
        c: (B, K, H, W); the dtype of gates, or float32 beside float16 and bfloat16.
        backend: "auto", "triton", "cpp" or "reference".

    Returns:
        h in the dtype of gates and c' in the dtype of c, both (B, K, H, W). Differentiable twice.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names it.
        RuntimeError: an explicit backend cannot run here.

    Source: Shi et al. 2015, eq. 3.
    """
    _check(gates, c)
    refusals = {"triton": lambda: triton_refusal(gates), "cpp": lambda: _cpp_refusal(gates, c)}
    chosen = choose("convlstm_gates", backend, refusals)
    if chosen == "reference":
        return convlstm_gates_reference(gates, c)
    ops = torch.ops.rlv2v_fast
    op = ops.convlstm_gates_triton_fwd if chosen == "triton" else ops.convlstm_gates_fwd
    layout = _shared_layout(gates, c)
    return op(gates.contiguous(memory_format=layout), c.contiguous(memory_format=layout))


def _check(gates: Tensor, c: Tensor) -> None:
    if c.dim() != 4:
        raise ValueError(f"c must have shape (B, K, H, W); got {tuple(c.shape)}")
    b, k, height, width = c.shape
    if gates.shape != (b, 4 * k, height, width):
        raise ValueError(f"gates must have shape {(b, 4 * k, height, width)}, 4K channels; got {tuple(gates.shape)}")
    if c.dtype != state_dtype(gates.dtype):
        raise ValueError(f"c must be {state_dtype(gates.dtype)} beside {gates.dtype} gates; got {c.dtype}")
    if c.device != gates.device:
        raise ValueError(f"c must be on the device of gates, {gates.device}; got {c.device}")


def _cpp_refusal(gates: Tensor, c: Tensor) -> str | None:
    if gates.dtype not in (torch.float32, torch.float64):
        return f"the C++ kernel takes float32 and float64, not {gates.dtype}"
    return cpp_refusal(gates)


def _shared_layout(gates: Tensor, c: Tensor) -> torch.memory_format:
    """The kernels need gates and states in one layout; that of gates, the larger, decides."""
    channels_last = gates.is_contiguous(memory_format=torch.channels_last) and not gates.is_contiguous()
    # A K=1 or 1x1 state is both layouts at once and the kernel then reads it as contiguous.
    ambiguous = c.shape[1] == 1 or c.shape[2] * c.shape[3] == 1
    return torch.channels_last if channels_last and not ambiguous else torch.contiguous_format


def _triton_fwd(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    from rlv2v_fast.kernels.convlstm_gates import convlstm_gates_fwd

    h, c_next = _fwd_fake(gates, c)
    with on_device_of(gates):
        convlstm_gates_fwd(gates, c, h, c_next)
    return h, c_next


def _triton_bwd(grad_h: Tensor, grad_c_next: Tensor, gates: Tensor, c: Tensor, c_next: Tensor) -> tuple[Tensor, Tensor]:
    from rlv2v_fast.kernels.convlstm_gates import convlstm_gates_bwd

    grad_gates, grad_c = _bwd_fake(grad_h, grad_c_next, gates, c, c_next)
    with on_device_of(gates):
        convlstm_gates_bwd(gates, c, c_next, grad_c_next, grad_gates, grad_c, grad_h=grad_h)
    return grad_gates, grad_c


def _fwd_fake(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(c, dtype=gates.dtype), torch.empty_like(c)


def _bwd_fake(grad_h: Tensor, grad_c_next: Tensor, gates: Tensor, c: Tensor, c_next: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(gates), torch.empty_like(c)


def _save_fwd(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    gates, c = inputs
    ctx.save_for_backward(gates, c, output[1])


def _fwd_autograd(bwd: Any, ctx: Any, grad_h: Tensor, grad_c_next: Tensor) -> tuple[Tensor, Tensor]:
    gates, c, c_next = ctx.saved_tensors
    layout = _shared_layout(gates, c)
    return bwd(
        grad_h.contiguous(memory_format=layout),
        grad_c_next.contiguous(memory_format=layout),
        gates,
        c,
        c_next,
    )


def _save_bwd(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _bwd_autograd(ctx: Any, grad_grad_gates: Tensor, grad_grad_c: Tensor) -> tuple[Tensor | None, ...]:
    """Second derivatives come from the reference's backward, which PyTorch can differentiate."""
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        outputs = convlstm_gates_bwd_reference(*inputs)
        return torch.autograd.grad(outputs, inputs, (grad_grad_gates, grad_grad_c))


def _register(name: str) -> None:
    """Fake kernels and gradients of the operators <name>_fwd and <name>_bwd."""
    fwd, bwd = f"rlv2v_fast::{name}_fwd", f"rlv2v_fast::{name}_bwd"
    torch.library.register_fake(fwd, _fwd_fake, lib=LIBRARY)
    torch.library.register_fake(bwd, _bwd_fake, lib=LIBRARY)
    backward = functools.partial(_fwd_autograd, getattr(torch.ops.rlv2v_fast, f"{name}_bwd"))
    torch.library.register_autograd(fwd, backward, setup_context=_save_fwd, lib=LIBRARY)
    torch.library.register_autograd(bwd, _bwd_autograd, setup_context=_save_bwd, lib=LIBRARY)


_register("convlstm_gates")
_register("convlstm_gates_triton")
# One implementation for every device: Triton chooses its own.
LIBRARY.impl("convlstm_gates_triton_fwd", _triton_fwd, "CompositeExplicitAutograd")
LIBRARY.impl("convlstm_gates_triton_bwd", _triton_bwd, "CompositeExplicitAutograd")
