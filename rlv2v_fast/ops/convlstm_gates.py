"""convlstm_gates: everything of a ConvLSTM step that follows its convolution, in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from rlv2v_fast.ops.backends import choose, cpp_refusal
from rlv2v_fast.ops.convlstm_triton import on_device_of, triton_refusal
from rlv2v_fast.ops.register import Operator, Values
from rlv2v_fast.ops.schemas import LIBRARY
from rlv2v_fast.ops.transforms import is_mapped
from rlv2v_fast.reference.convlstm import convlstm_gates_reference
from rlv2v_fast.reference.precision import accumulation_dtype


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
    layout = _shared_layout(gates, c)
    return _OPERATORS[chosen](gates.contiguous(memory_format=layout), c.contiguous(memory_format=layout))


def _check(gates: Tensor, c: Tensor) -> None:
    if c.dim() != 4:
        raise ValueError(f"c must have shape (B, K, H, W); got {tuple(c.shape)}")
    b, k, height, width = c.shape
    if gates.shape != (b, 4 * k, height, width):
        raise ValueError(f"gates must have shape {(b, 4 * k, height, width)}, 4K channels; got {tuple(gates.shape)}")
    if c.dtype != accumulation_dtype(gates.dtype):
        raise ValueError(f"c must be {accumulation_dtype(gates.dtype)} beside {gates.dtype} gates; got {c.dtype}")
    if c.device != gates.device:
        raise ValueError(f"c must be on the device of gates, {gates.device}; got {c.device}")


def _cpp_refusal(gates: Tensor, c: Tensor) -> str | None:
    if gates.dtype not in (torch.float32, torch.float64):
        return f"the C++ kernel takes float32 and float64, not {gates.dtype}"
    return cpp_refusal(gates)


def _shared_layout(gates: Tensor, c: Tensor) -> torch.memory_format:
    """The kernels need gates and states in one layout; that of gates, the larger, decides."""
    if is_mapped():
        return torch.contiguous_format
    channels_last = gates.is_contiguous(memory_format=torch.channels_last) and not gates.is_contiguous()
    # A K=1 or 1x1 state is both layouts at once and the kernel then reads it as contiguous.
    ambiguous = c.shape[1] == 1 or c.shape[2] * c.shape[3] == 1
    return torch.channels_last if channels_last and not ambiguous else torch.contiguous_format


def _triton_fwd(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    from rlv2v_fast.kernels.convlstm_gates import convlstm_gates_fwd

    h, c_next = torch.empty_like(c, dtype=gates.dtype), torch.empty_like(c)
    with on_device_of(gates):
        convlstm_gates_fwd(gates, c, h, c_next)
    return h, c_next


def _triton_bwd(grad_h: Tensor, grad_c_next: Tensor, gates: Tensor, c: Tensor, c_next: Tensor) -> tuple[Tensor, Tensor]:
    from rlv2v_fast.kernels.convlstm_gates import convlstm_gates_bwd

    grad_gates, grad_c = torch.empty_like(gates), torch.empty_like(c)
    with on_device_of(gates):
        convlstm_gates_bwd(gates, c, c_next, grad_c_next, grad_gates, grad_c, grad_h=grad_h)
    return grad_gates, grad_c


def _fake(v: Values) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v.c, dtype=v.gates.dtype), torch.empty_like(v.c)


def _formula(v: Values) -> tuple[Tensor, Tensor]:
    return convlstm_gates_reference(v.gates, v.c)


_OPERATORS = {
    backend: Operator(name, fake=_fake, reference=_formula, layout=lambda v: _shared_layout(v.gates, v.c))
    for backend, name in (("cpp", "convlstm_gates"), ("triton", "convlstm_gates_triton"))
}
# One implementation for every device: Triton chooses its own.
LIBRARY.impl("convlstm_gates_triton_fwd", _triton_fwd, "CompositeExplicitAutograd")
LIBRARY.impl("convlstm_gates_triton_bwd", _triton_bwd, "CompositeExplicitAutograd")
