"""convlstm: a ConvLSTM layer over a whole sequence."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.kernels.layer_inputs import LayerInputs
from rlv2v_fast.ops.backends import choose, cpp_refusal, is_autocasting, waits_for_launches
from rlv2v_fast.ops.convlstm_gates import convlstm_gates
from rlv2v_fast.ops.convlstm_triton import convlstm_sequence_triton, convolution_dtype, triton_refusal
from rlv2v_fast.ops.register import Operator, Values
from rlv2v_fast.ops.sizes import LAUNCH_ELEMENTS, LAUNCH_STEPS
from rlv2v_fast.reference.convlstm import convlstm_gates_reference, convlstm_reference, run_steps
from rlv2v_fast.reference.precision import accumulation_dtype

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
            kernels in float32: up to 1e-5 m of absolute error in the output, and 3e-5 m of its largest entry in a
            gradient, where m is the largest magnitude of x and h0, or 1. Tiles that see values which are not finite, or
            some 4096 times as large as all that one of their pixels sees, are summed as a plain convolution does.
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
    may_wait = backend == "auto" and not cuda_graph and waits_for_launches(x, LAUNCH_ELEMENTS)
    if may_wait and x.shape[1] <= LAUNCH_STEPS:
        backend = "reference"
    chosen = choose("convlstm", backend, refusals)
    if chosen == "cpp" and x.device.type == "cpu":
        return _sequence(x, weight, bias, h0, c0, exact, memory)
    inputs = LayerInputs(x, weight, bias, *_initial_state(x, weight.shape[0] // 4, h0, c0), peephole, lengths)
    if chosen == "triton":
        return convlstm_sequence_triton(inputs, memory, cuda_graph=cuda_graph)
    if chosen == "reference":
        return convlstm_reference(*inputs)
    return _stepwise(inputs, chosen)


def call_convlstm(
    convolve: Callable[[Tensor], Tensor],
    hidden: int,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    *,
    peephole: Tensor | None,
    lengths: Tensor | None,
    backend: str,
    reason: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """convlstm by a convolution that must be called, step by step, because of `reason`.

    Args:
        convolve: from cat[x_t, h] (B, C+K, H, W) to the gates (B, 4K, H, W). hidden: K.
        x, h0, c0, peephole, lengths, backend: as of convlstm.
    """
    check_sequence(x, lengths)
    _warn_or_refuse(backend, reason)

    def step(frame: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return convlstm_gates_reference(convolve(torch.cat([frame, h], dim=1)), c, peephole)

    return run_steps(step, x, *_initial_state(x, hidden, h0, c0), lengths)


def call_steps(
    step: Callable[[Tensor, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]],
    initial: tuple[Tensor, Tensor],
    x: Tensor,
    *,
    lengths: Tensor | None,
    backend: str,
    reason: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer by a cell that must be called, step by step, because of `reason`.

    Args:
        step: from x_t (B, C, H, W) and (h, c) to the next (h, c). initial: the first (h, c).
        x, lengths, backend: as of convlstm.
    """
    check_sequence(x, lengths)
    _warn_or_refuse(backend, reason)
    return run_steps(lambda frame, h, c: step(frame, (h, c)), x, *initial, lengths)


def _warn_or_refuse(backend: str, reason: str) -> None:
    """Say once that no fused kernel runs; RuntimeError where backend asks for one."""
    choose("convlstm", backend, {"triton": lambda: reason, "cpp": lambda: reason})


def check_sequence(x: Tensor, lengths: Tensor | None) -> None:
    """ValueError unless x is (B, T, C, H, W) with T >= 1, and lengths, if given, (B,) integers in [0, T]."""
    if x.dim() != 5:
        raise ValueError(f"x must have shape (B, T, C, H, W); got {tuple(x.shape)}")
    batch, steps = x.shape[:2]
    if steps < 1:
        raise ValueError(f"x must hold at least one time step, T >= 1; got T={steps}")
    if lengths is not None and lengths.device != x.device:
        raise ValueError(f"lengths must be on the device of x, {x.device}; got {lengths.device}")
    if lengths is not None:
        _check_lengths(lengths, batch, steps)


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
    compute = accumulation_dtype(dtype)
    tensors = (x, weight, bias, h0, c0)
    x, weight, bias, h0, c0 = (None if t is None else t.to(compute) for t in tensors)  # type: ignore[assignment]
    recording = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    # A graph of TorchScript may be differentiated later, and is checked against one traced without gradients.
    save = recording or torch.jit.is_tracing()
    output, h, c, _, _ = _OPERATOR(x, weight, bias, h0, c0, exact, save, save and memory == "fast")
    return output.to(dtype), h.to(dtype), c


def _stepwise(inputs: LayerInputs, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """PyTorch's convolution and a fused kernel for the gates, step by step."""
    weight, h, c = inputs.weight, inputs.h0, inputs.c0
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    outputs = []
    for frame in inputs.x.unbind(1):
        gates = F.conv2d(torch.cat([frame, h], dim=1), weight, inputs.bias, padding=padding)
        h, c = convlstm_gates(gates, c, backend=backend)
        outputs.append(h)
    return torch.stack(outputs, dim=1), h, c


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, peephole: Tensor | None, lengths: Tensor | None) -> None:
    check_sequence(x, lengths)
    channels = x.shape[2]
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
    for name, tensor in (("weight", weight), ("bias", bias), ("peephole", peephole)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}; got {tensor.device}")
        if tensor is not None and tensor.dtype != x.dtype and not is_autocasting(x):
            raise ValueError(f"{name} must have the dtype of x, {x.dtype}; got {tensor.dtype}")


def _check_lengths(lengths: Tensor, batch: int, steps: int) -> None:
    if lengths.shape != (batch,) or lengths.dtype.is_floating_point or lengths.dtype == torch.bool:
        raise ValueError(f"lengths must be ({batch},) integers; got {tuple(lengths.shape)} of {lengths.dtype}")
    if torch.compiler.is_compiling() or lengths.numel() == 0:
        return
    if lengths.is_cuda and torch.cuda.is_current_stream_capturing():
        return  # their values cannot be asked for; kernels bear any
    if bool(((lengths < 0) | (lengths > steps)).any()):
        raise ValueError(f"lengths must lie in [0, T={steps}]; got {lengths.tolist()}")


def _check_state(x: Tensor, weight: Tensor, h0: Tensor | None, c0: Tensor | None) -> None:
    shape = (x.shape[0], weight.shape[0] // 4, *x.shape[3:])
    for name, state in (("h0", h0), ("c0", c0)):
        if state is not None and state.shape != shape:
            raise ValueError(f"{name} must have shape {tuple(shape)}; got {tuple(state.shape)}")
        if state is not None and state.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}; got {state.device}")


def _initial_state(x: Tensor, hidden: int, h0: Tensor | None, c0: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], hidden, *x.shape[3:])
    dtype = convolution_dtype(x)
    h = x.new_zeros(shape, dtype=dtype) if h0 is None else h0.to(dtype)
    c = x.new_zeros(shape, dtype=accumulation_dtype(dtype)) if c0 is None else c0.to(accumulation_dtype(dtype))
    return h, c


def _cpp_refusal(x: Tensor, peephole: Tensor | None, lengths: Tensor | None) -> str | None:
    if peephole is not None:
        return "the C++ kernel has no peephole weights"
    if lengths is not None:
        return "the C++ kernel takes no lengths"
    # A CPU computes 16 bits in float32; on a GPU the gates come from a convolution, in autocast's dtype.
    dtype = torch.float32 if x.device.type == "cpu" and x.dtype != torch.float64 else convolution_dtype(x)
    if not x.is_floating_point() or dtype not in (torch.float32, torch.float64):
        return f"the C++ kernel takes float32 and float64, not {dtype if x.is_floating_point() else x.dtype}"
    return cpp_refusal(x)


def _fake(v: Values) -> tuple[Tensor, ...]:
    batch, steps, _, height, width = v.x.shape
    hidden = v.weight.shape[0] // 4
    state = (batch, hidden, height, width)
    kept = (steps, batch, height, width)
    return (
        v.x.new_empty((batch, steps, hidden, height, width)),
        v.x.new_empty(state),
        v.x.new_empty(state),
        v.x.new_empty((*kept, hidden) if v.save_cells else (0,)),
        v.x.new_empty((*kept, 4 * hidden) if v.save_gates else (0,)),
    )


def _fake_bwd(v: Values) -> tuple[Tensor, ...]:
    state = (v.x.shape[0], v.weight.shape[0] // 4, *v.x.shape[3:])
    return (
        v.x.new_empty(v.x.shape if v.need_x else (0,)),
        v.x.new_empty(v.weight.shape if v.need_weight else (0,)),
        v.x.new_empty(v.weight.shape[:1] if v.need_weight else (0,)),
        v.x.new_empty(state if v.need_h0 else (0,)),
        v.x.new_empty(state if v.need_c0 else (0,)),
    )


def _formula(v: Values) -> tuple[Tensor, Tensor, Tensor]:
    return convlstm_reference(v.x, v.weight, v.bias, *_initial_state(v.x, v.weight.shape[0] // 4, v.h0, v.c0))


def _backward(v: Values) -> dict[str, Tensor]:
    if v.cells.shape[0] != v.x.shape[1]:
        raise RuntimeError("convlstm_fwd must run with save_cells=True to be differentiated")
    return _OPERATOR.run_bwd(v)


_OPERATOR = Operator(
    "convlstm",
    fake=_fake,
    fake_bwd=_fake_bwd,
    reference=_formula,
    # One pass gives the gradients of weight and bias.
    need={"need_weight": ("weight", "bias")},
    backward=_backward,
)
