"""convlstm over a sequence by Triton kernels: the operator, its gradients, and when it refuses."""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from rlv2v_fast.kernels.layer_inputs import LayerInputs, padded_channels
from rlv2v_fast.ops.backends import is_autocasting
from rlv2v_fast.ops.register import Operator, Values
from rlv2v_fast.ops.schemas import LIBRARY, SCHEMAS
from rlv2v_fast.reference.convlstm import convlstm_reference

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Found without importing it: the package must import where Triton does not exist.
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def convolution_dtype(x: Tensor) -> torch.dtype:
    """dtype in which PyTorch would convolve x: autocast's where it is on, but that leaves float64 alone."""
    if is_autocasting(x) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def triton_refusal(x: Tensor) -> str | None:
    """Why the Triton kernels cannot take x, judged by device and dtype; None when they can.

    A CPU tensor passes under TRITON_INTERPRET=1, where Triton runs the kernels in Python; bfloat16, in which that
    interpreter gives wrong numbers, does not.
    """
    if not _HAS_TRITON:
        return "Triton is not installed"
    dtype = convolution_dtype(x)
    if dtype not in _DTYPES:
        return f"the Triton kernels take float32, float16 and bfloat16, not {dtype}"
    if x.device.type == "cuda":
        return None
    if x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return "Triton's interpreter is wrong in bfloat16" if dtype == torch.bfloat16 else None
    return f"the Triton kernels run on a GPU, not on {x.device.type}"


def convlstm_sequence_triton(
    inputs: LayerInputs, memory: str = "fast", *, cuda_graph: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """A ConvLSTM layer over a sequence, as convlstm_reference, one convolution and one Triton kernel per step.

    The caller has checked shapes and asked triton_refusal. Convolutions run in x's dtype, or autocast's where that is
    on; gates and cell state in float32. The gradient of the weight is one convolution over all steps, and rounds as
    PyTorch's does over so many frames. Differentiable twice; the second derivative by the reference.

    Args:
        inputs: the layer's.
        memory: "fast" keeps the gates for the backward; "low" keeps output and cell states and computes the gates
            again, for one more convolution per step. Without gradients to record it changes nothing.
        cuda_graph: replay the sequence as a CUDA graph, captured at the first call with these shapes. The outputs are
            copies that later calls leave alone. torch.compile ignores it: mode="reduce-overhead" captures more.

    Returns:
        output (B, T, K, H, W) and the last h (B, K, H, W) in the convolutions' dtype, and the last c in float32.

    Raises:
        ValueError: memory is neither "fast" nor "low"; or cuda_graph where a gradient is recorded or x is not on a GPU.

    Source: Shi et al. 2015, eq. 3.
    """
    if memory not in ("fast", "low"):
        raise ValueError(f"memory must be 'fast' or 'low'; got {memory!r}")
    x, dtype = inputs.x, convolution_dtype(inputs.x)
    inputs = inputs._replace(weight=inputs.weight.to(dtype), h0=inputs.h0.to(dtype), c0=inputs.c0.float())
    recording = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    if cuda_graph and not torch.compiler.is_compiling():
        if recording or not x.is_cuda:
            why = "a gradient is recorded" if recording else f"x is on {x.device}"
            raise ValueError(f"cuda_graph must be False where {why}; got True")
        return _graph_replay(inputs)
    output, h, c, *_ = _OPERATOR(*inputs, memory if recording else "none")
    return output, h, c


def _graph_replay(inputs: LayerInputs) -> tuple[Tensor, Tensor, Tensor]:
    from rlv2v_fast.kernels.convlstm_graph import replay

    # A graph outlives the call: captured in inference mode, its inputs could never be written again outside of it.
    x = inputs.x
    with torch.inference_mode(False), torch.no_grad(), on_device_of(x), torch.autocast(x.device.type, enabled=False):
        return replay(inputs)


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whichever the tensors are on."""
    return torch.cuda.device_of(tensor)


def _inputs(v: Values) -> LayerInputs:
    return LayerInputs(*(getattr(v, name) for name in LayerInputs._fields))


def _fwd(*arguments: Any) -> tuple[Any, ...]:
    from rlv2v_fast.kernels.convlstm_sequence import convlstm_sequence_fwd

    *tensors, memory = arguments
    inputs = LayerInputs(*tensors)
    # Autocast is still on in here; its casts have been made.
    with on_device_of(inputs.x), torch.autocast(inputs.x.device.type, enabled=False):
        return tuple(convlstm_sequence_fwd(inputs, memory))


def _bwd(*arguments: Any) -> tuple[Tensor, ...]:
    from rlv2v_fast.kernels.convlstm_sequence import SequenceKept, SequenceResults, convlstm_sequence_bwd

    v = Values(**dict(zip(SCHEMAS["convlstm_triton_bwd"].arguments, arguments, strict=True)))
    grads = SequenceResults(v.grad_output, v.grad_h, v.grad_c)
    kept = SequenceKept(v.output, v.conv_inputs, v.gates, v.cells)
    needs = {"need_x": v.need_x, "need_weight": v.need_weight, "need_h0": v.need_h0}
    with on_device_of(v.x), torch.autocast(v.x.device.type, enabled=False):
        gradients = convlstm_sequence_bwd(grads, _inputs(v), kept, **needs)
    return tuple(v.x.new_empty(0) if grad is None else grad for grad in gradients)


# One implementation for every device: Triton chooses its own.
LIBRARY.impl("convlstm_triton_fwd", _fwd, "CompositeExplicitAutograd")
LIBRARY.impl("convlstm_triton_bwd", _bwd, "CompositeExplicitAutograd")


def _fake(v: Values) -> tuple[Any, ...]:
    batch, steps, channels, height, width = v.x.shape
    hidden = v.weight.shape[0] // 4
    pitch = padded_channels(channels, hidden, v.weight.element_size()) + hidden
    kept_steps = steps if v.memory == "fast" else 0
    state = (batch, hidden, height, width)
    cells = (0,) if v.memory == "none" else (steps + 1, batch, height, width, hidden)
    return (
        v.weight.new_empty((batch, steps, hidden, height, width)),
        v.weight.new_empty(state),
        v.weight.new_empty(state, dtype=torch.float32),
        v.weight.new_empty((steps, batch, height, width, pitch) if kept_steps else (0,)),
        [v.weight.new_empty((batch, height, width, 4 * hidden)) for _ in range(kept_steps)],
        v.weight.new_empty(cells, dtype=torch.float32),
    )


def _fake_bwd(v: Values) -> tuple[Tensor, ...]:
    needed = {"x": v.need_x, "weight": v.need_weight, "h0": v.need_h0}
    return tuple(
        v.x.new_empty(0) if tensor is None or not needed.get(name, True) else tensor.new_empty(tensor.shape)
        for name, tensor in zip(LayerInputs._fields, _inputs(v), strict=True)
        if name != "lengths"
    )


def _formula(v: Values) -> tuple[Tensor, Tensor, Tensor]:
    return convlstm_reference(*_inputs(v))


def _kept_output(given: Values, results: Values) -> dict[str, Tensor]:
    """The output is kept for memory="low" only: convolution inputs hold every h already."""
    return {"output": results.output if given.memory == "low" else results.output.new_empty(0)}


def _backward(v: Values) -> dict[str, Tensor]:
    if v.cells.numel() == 0 and v.x.numel() > 0:
        raise RuntimeError("convlstm_triton_fwd ran with memory='none' and kept nothing for a backward")
    return _OPERATOR.run_bwd(v)


_OPERATOR = Operator(
    "convlstm_triton",
    fake=_fake,
    fake_bwd=_fake_bwd,
    reference=_formula,
    arguments=_kept_output,
    backward=_backward,
)
