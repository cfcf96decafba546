"""convlstm: a ConvLSTM layer over a whole sequence."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.ops.backends import choose, cpp_refusal
from rlv2v_fast.ops.convlstm_gates import convlstm_gates
from rlv2v_fast.ops.convlstm_triton import convlstm_sequence_triton, convolution_dtype, triton_refusal
from rlv2v_fast.ops.schemas import LIBRARY
from rlv2v_fast.reference.convlstm import convlstm_reference, state_dtype

MEMORY = ("fast", "low")


def convlstm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    *,
    peephole: Tensor | None = None,
    lengths: Tensor | None = None,
    exact: bool = False,
    memory: str = "fast",
    cuda_graph: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """One ConvLSTM layer: gates_t = weight * cat[x_t, h_{t-1}] + bias, c_t = f c_{t-1} + i g, h_t = o tanh(c_t).

    Args:
        x: (B, T, C, H, W), T >= 1.
        weight: (4K, C+K, kh, kw) with kh and kw odd, gates in order i, f, o, g; "same" zero padding.
        bias: (4K,) or None.
        h0, c0: (B, K, H, W) initial state; None is zeros.
        peephole: (3, K), weights of c on i, f and o; None for none.
        lengths: (B,) integers in [0, T]; from step lengths[b] on, sample b holds its state and outputs zeros.
        exact: True sums as a plain convolution does. False lets a fused kernel use Winograd's algorithm for 3x3 and 5x5
            kernels in float32: up to 1e-5 of absolute error in the output, and 3e-5 of its largest entry in a gradient.
        memory: what a fused kernel keeps for the backward. "fast" keeps the gates, "low" recomputes them.
        cuda_graph: replay the Triton sequence as a CUDA graph captured at the first call with these shapes; only for
            inference on a GPU, and ignored by the other backends.
        backend: "auto", "triton", "cpp" or "reference".

    Returns:
        output (B, T, K, H, W) and the last h, each in the dtype of the convolution, and the last c (B, K, H, W),
        float32 beside half types. Differentiable twice. The fused CPU kernel computes half types in float32.

    Raises:
        ValueError: an argument does not fit; the message names it, the rule and the value.
        RuntimeError: an explicit backend cannot run here.

    Source: Shi et al. 2015, eq. 3; gate order and the single convolution as in the widely used PyTorch layer.
    """
    _check(x, weight, bias, peephole, lengths)
    _check_state(x, weight, h0, c0)
    check_memory(memory)
    refusals = {"triton": lambda: triton_refusal(x), "cpp": lambda: _cpp_refusal(x, peephole, lengths)}
    chosen = choose("convlstm", backend, refusals)
    if chosen == "cpp" and x.device.type == "cpu":
        return _sequence(x, weight, bias, h0, c0, exact, memory)
    h0, c0 = _initial_state(x, weight, h0, c0)
    if chosen == "triton":
        return convlstm_sequence_triton(x, weight, bias, h0, c0, peephole, lengths, memory, cuda_graph=cuda_graph)
    if chosen == "reference":
        return convlstm_reference(x, weight, bias, h0, c0, peephole, lengths)
    return _stepwise(x, weight, bias, h0, c0, chosen)


def check_memory(memory: str) -> str:
    """Return memory; ValueError unless it is one of MEMORY."""
    if memory not in MEMORY:
        raise ValueError(f"memory must be one of {', '.join(MEMORY)}; got {memory!r}")
    return memory


def _sequence(
    x: Tensor, weight: Tensor, bias: Tensor | None, h0: Tensor | None, c0: Tensor | None, exact: bool, memory: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The fused operator. Half types are computed in float32, as is everything under autocast but float64."""
    dtype = convolution_dtype(x)
    compute = state_dtype(dtype)
    tensors = (x, weight, bias, h0, c0)
    x, weight, bias, h0, c0 = (None if t is None else t.to(compute) for t in tensors)  # type: ignore[assignment]
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    output, h, c, _, _ = torch.ops.rlv2v_fast.convlstm_fwd(
        x, weight, bias, h0, c0, exact, save, save and memory == "fast"
    )
    return output.to(dtype), h.to(dtype), c


def _stepwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, h: Tensor, c: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    outputs = []
    for frame in x.unbind(1):
        gates = F.conv2d(torch.cat([frame, h], dim=1), weight, bias, padding=padding)
        h, c = convlstm_gates(gates, c, backend=backend if gates.dtype == c.dtype else "reference")
        outputs.append(h)
    return torch.stack(outputs, dim=1), h, c


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, peephole: Tensor | None, lengths: Tensor | None) -> None:
    if x.dim() != 5:
        raise ValueError(f"x must have shape (B, T, C, H, W); got {tuple(x.shape)}")
    batch, steps, channels = x.shape[:3]
    if steps < 1:
        raise ValueError(f"x must hold at least one time step, T >= 1; got T={steps}")
    if weight.dim() != 4 or weight.shape[0] % 4 or weight.shape[1] != channels + weight.shape[0] // 4:
        raise ValueError(
            f"weight must have shape (4K, C+K, kh, kw) with C={channels}, the channels of x; got {tuple(weight.shape)}"
        )
    if weight.shape[2] % 2 == 0 or weight.shape[3] % 2 == 0:
        raise ValueError(f"weight must have an odd kernel for 'same' padding; got {tuple(weight.shape[2:])}")
    hidden = weight.shape[0] // 4
    if bias is not None and bias.shape != (4 * hidden,):
        raise ValueError(f"bias must have shape ({4 * hidden},); got {tuple(bias.shape)}")
    if peephole is not None and peephole.shape != (3, hidden):
        raise ValueError(f"peephole must have shape (3, {hidden}); got {tuple(peephole.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias), ("peephole", peephole), ("lengths", lengths)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}; got {tensor.device}")
        if tensor is not None and name != "lengths" and tensor.dtype != x.dtype and not _autocasting(x):
            raise ValueError(f"{name} must have the dtype of x, {x.dtype}; got {tensor.dtype}")
    if lengths is not None:
        _check_lengths(lengths, batch, steps)


def _check_lengths(lengths: Tensor, batch: int, steps: int) -> None:
    if lengths.shape != (batch,) or lengths.dtype.is_floating_point or lengths.dtype == torch.bool:
        raise ValueError(f"lengths must be ({batch},) integers; got {tuple(lengths.shape)} of {lengths.dtype}")
    if torch.compiler.is_compiling() or lengths.numel() == 0:
        return
    if lengths.is_cuda and torch.cuda.is_current_stream_capturing():
        return  # their values cannot be asked for; kernels bear any
    if bool(((lengths < 0) | (lengths > steps)).any()):
        raise ValueError(f"lengths must lie in [0, T={steps}]; got {lengths.tolist()}")


def _autocasting(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def _check_state(x: Tensor, weight: Tensor, h0: Tensor | None, c0: Tensor | None) -> None:
    shape = (x.shape[0], weight.shape[0] // 4, *x.shape[3:])
    for name, state in (("h0", h0), ("c0", c0)):
        if state is not None and state.shape != shape:
            raise ValueError(f"{name} must have shape {tuple(shape)}; got {tuple(state.shape)}")
        if state is not None and state.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}; got {state.device}")


def _initial_state(x: Tensor, weight: Tensor, h0: Tensor | None, c0: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], weight.shape[0] // 4, *x.shape[3:])
    dtype = convolution_dtype(x)
    h = x.new_zeros(shape, dtype=dtype) if h0 is None else h0.to(dtype)
    c = x.new_zeros(shape, dtype=state_dtype(dtype)) if c0 is None else c0.to(state_dtype(dtype))
    return h, c


def _cpp_refusal(x: Tensor, peephole: Tensor | None, lengths: Tensor | None) -> str | None:
    if peephole is not None:
        return "the C++ kernel has no peephole weights"
    if lengths is not None:
        return "the C++ kernel takes no lengths"
    halves = (torch.float16, torch.bfloat16) if x.device.type == "cpu" else ()
    if x.dtype not in (torch.float32, torch.float64, *halves):
        return f"the C++ kernel takes float32 and float64, not {x.dtype}"
    return cpp_refusal(x)


@torch.library.register_fake("rlv2v_fast::convlstm_fwd", lib=LIBRARY)
def _fwd_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    exact: bool,
    save_cells: bool,
    save_gates: bool,
) -> tuple[Tensor, ...]:
    batch, steps, _, height, width = x.shape
    k = weight.shape[0] // 4
    state = (batch, k, height, width)
    cells = (steps, batch, height, width, k) if save_cells else (0,)
    gates = (steps, batch, height, width, 4 * k) if save_gates else (0,)
    return (
        x.new_empty((batch, steps, k, height, width)),
        x.new_empty(state),
        x.new_empty(state),
        x.new_empty(cells),
        x.new_empty(gates),
    )


@torch.library.register_fake("rlv2v_fast::convlstm_bwd", lib=LIBRARY)
def _bwd_fake(
    grad_output: Tensor | None,
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    output: Tensor,
    cells: Tensor,
    gates: Tensor,
    exact: bool,
    need_x: bool,
    need_weight: bool,
    need_h0: bool,
    need_c0: bool,
) -> tuple[Tensor, ...]:
    state = (x.shape[0], weight.shape[0] // 4, *x.shape[3:])
    return (
        x.new_empty(x.shape if need_x else (0,)),
        x.new_empty(weight.shape if need_weight else (0,)),
        x.new_empty(weight.shape[:1] if need_weight else (0,)),
        x.new_empty(state if need_h0 else (0,)),
        x.new_empty(state if need_c0 else (0,)),
    )


def _save_fwd(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, h0, c0, exact, _, _ = inputs
    out, _, _, cells, gates = output
    ctx.exact = exact
    # Materialized gradients of cells and gates would be zeros as large as everything else together.
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(cells, gates)
    ctx.save_for_backward(x, weight, bias, h0, c0, out, cells, gates)


def _fwd_autograd(ctx: Any, grad_output: Any, grad_h: Any, grad_c: Any, *_: Any) -> tuple[Any, ...]:
    x, weight, bias, h0, c0, output, cells, gates = ctx.saved_tensors
    if cells.shape[0] != x.shape[1]:
        raise RuntimeError("convlstm_fwd must run with save_cells=True to be differentiated")
    need_x, need_weight, need_bias, need_h0, need_c0 = ctx.needs_input_grad[:5]
    grad_x, grad_weight, grad_bias, grad_h0, grad_c0 = torch.ops.rlv2v_fast.convlstm_bwd(
        grad_output,
        grad_h,
        grad_c,
        x,
        weight,
        bias,
        h0,
        c0,
        output,
        cells,
        gates,
        ctx.exact,
        need_x,
        need_weight or need_bias,
        need_h0,
        need_c0,
    )
    return (
        grad_x if need_x else None,
        grad_weight if need_weight else None,
        grad_bias if need_bias else None,
        grad_h0 if need_h0 else None,
        grad_c0 if need_c0 else None,
        None,
        None,
        None,
    )


# Arguments of convlstm_bwd that a second derivative reaches: the gradients, then x, weight, bias, h0 and c0. What the
# forward saved is a function of the latter, which the reference computes again.
_DIFFERENTIABLE = 8


def _save_bwd(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.needs = inputs[-4:]
    ctx.save_for_backward(*inputs[:_DIFFERENTIABLE])


def _bwd_autograd(ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """Second derivatives: differentiate the gradient of the reference."""
    with torch.enable_grad():
        # Views are nodes of their own: no path leads from one input to another even where the caller's inputs depend
        # on each other, and a third derivative still reaches the caller's graph.
        inputs = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
        inputs = [t if t is None or t.requires_grad else t.detach().requires_grad_() for t in inputs]
        first = _reference_gradients(inputs, ctx.needs)
        pairs = [(g, gg) for g, gg in zip(first, grad_grads, strict=True) if gg is not None and g is not None]
        wanted = [t for t, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed and t is not None]
        found = torch.autograd.grad(
            [g for g, _ in pairs],
            wanted,
            [gg for _, gg in pairs],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
    by_input = iter(found)
    second = [
        next(by_input) if needed and t is not None else None
        for t, needed in zip(inputs, ctx.needs_input_grad, strict=False)
    ]
    return (*second, *[None] * (len(ctx.needs_input_grad) - _DIFFERENTIABLE))


def _reference_gradients(inputs: list[Any], needs: tuple[bool, ...]) -> list[Tensor | None]:
    """What convlstm_bwd returns, as a differentiable expression; None for what it does not compute."""
    grads, (x, weight, *optional) = inputs[:3], inputs[3:]
    bias, h0, c0 = optional
    start = _initial_state(x, weight, h0, c0)
    outputs = convlstm_reference(x, weight, bias, *start)
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None]
    need_x, need_weight, need_h0, need_c0 = needs
    flags = (need_x, need_weight, need_weight, need_h0, need_c0)
    wanted = [t for t, needed in zip((x, weight, bias, h0, c0), flags, strict=True) if needed and t is not None]
    found = iter(
        torch.autograd.grad([o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True)
    )
    return [
        next(found) if needed and t is not None else None
        for t, needed in zip((x, weight, bias, h0, c0), flags, strict=True)
    ]


torch.library.register_autograd("rlv2v_fast::convlstm_fwd", _fwd_autograd, setup_context=_save_fwd, lib=LIBRARY)
torch.library.register_autograd("rlv2v_fast::convlstm_bwd", _bwd_autograd, setup_context=_save_bwd, lib=LIBRARY)
