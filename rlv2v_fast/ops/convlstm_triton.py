"""convlstm over a sequence by Triton kernels: the operator, its gradients, and when it refuses."""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from rlv2v_fast.kernels.slots import padded_channels
from rlv2v_fast.ops.schemas import LIBRARY
from rlv2v_fast.reference.convlstm import convlstm_reference

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Found without importing it: the package must import where Triton does not exist.
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def convolution_dtype(x: Tensor) -> torch.dtype:
    """dtype in which PyTorch would convolve x: autocast's where it is on, but that leaves float64 alone."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
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
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    peephole: Tensor | None = None,
    lengths: Tensor | None = None,
    memory: str = "fast",
    *,
    cuda_graph: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """A ConvLSTM layer over a sequence, as convlstm_reference, one convolution and one Triton kernel per step.

    The caller has checked shapes and asked triton_refusal. Convolutions run in x's dtype, or autocast's where that is
    on; gates and cell state in float32. Differentiable twice; the second derivative by the reference.

    Args:
        x: (B, T, C, H, W), T >= 1.
        weight: (4K, C+K, kh, kw), odd kernel, gates in order i, f, o, g. bias: (4K,) or None.
        h0, c0: (B, K, H, W).
        peephole: (3, K) or None.
        lengths: (B,) integers in [0, T], or None.
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
    dtype = convolution_dtype(x)
    weight = weight.to(dtype)
    h0, c0 = h0.to(dtype), c0.float()
    recording = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias, h0, c0, peephole)
    )
    if cuda_graph and not torch.compiler.is_compiling():
        if recording or not x.is_cuda:
            why = "a gradient is recorded" if recording else f"x is on {x.device}"
            raise ValueError(f"cuda_graph must be False where {why}; got True")
        return _graph_replay(x, weight, bias, h0, c0, peephole, lengths)
    output, h, c, *_ = torch.ops.rlv2v_fast.convlstm_triton_fwd(
        x, weight, bias, h0, c0, peephole, lengths, memory if recording else "none"
    )
    return output, h, c


def _graph_replay(x: Tensor, *arguments: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    from rlv2v_fast.kernels.convlstm_graph import replay

    # A graph outlives the call: captured in inference mode, its inputs could never be written again outside of it.
    with torch.inference_mode(False), torch.no_grad(), on_device_of(x), torch.autocast(x.device.type, enabled=False):
        return replay(x, *arguments)


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whichever the tensors are on."""
    return torch.cuda.device_of(tensor)


def _fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    peephole: Tensor | None,
    lengths: Tensor | None,
    memory: str,
) -> tuple[Any, ...]:
    from rlv2v_fast.kernels.convlstm_sequence import convlstm_sequence_fwd

    # Autocast is still on in here; its casts have been made.
    with on_device_of(x), torch.autocast(x.device.type, enabled=False):
        return tuple(convlstm_sequence_fwd(x, weight, bias, h0, c0, peephole, lengths, memory))


def _bwd(
    grad_output: Tensor,
    grad_h: Tensor,
    grad_c: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    peephole: Tensor | None,
    lengths: Tensor | None,
    output: Tensor,
    slots: Tensor,
    gates: list[Tensor],
    cells: Tensor,
    need_x: bool,
    need_weight: bool,
    need_h0: bool,
) -> tuple[Tensor, ...]:
    from rlv2v_fast.kernels.convlstm_sequence import convlstm_sequence_bwd

    with on_device_of(x), torch.autocast(x.device.type, enabled=False):
        grads = convlstm_sequence_bwd(
            grad_output,
            grad_h,
            grad_c,
            x,
            weight,
            bias,
            h0,
            peephole,
            lengths,
            output,
            slots,
            gates,
            cells,
            need_x=need_x,
            need_weight=need_weight,
            need_h0=need_h0,
        )
    return tuple(x.new_empty(0) if grad is None else grad for grad in grads)


# One implementation for every device: Triton chooses its own.
LIBRARY.impl("convlstm_triton_fwd", _fwd, "CompositeExplicitAutograd")
LIBRARY.impl("convlstm_triton_bwd", _bwd, "CompositeExplicitAutograd")


@torch.library.register_fake("rlv2v_fast::convlstm_triton_fwd", lib=LIBRARY)
def _fwd_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    peephole: Tensor | None,
    lengths: Tensor | None,
    memory: str,
) -> tuple[Any, ...]:
    batch, steps, channels, height, width = x.shape
    hidden = weight.shape[0] // 4
    pitch = padded_channels(channels, hidden, weight.element_size()) + hidden
    keep = memory == "fast"
    state = (batch, hidden, height, width)
    return (
        weight.new_empty((batch, steps, hidden, height, width)),
        weight.new_empty(state),
        weight.new_empty(state, dtype=torch.float32),
        weight.new_empty((steps, batch, height, width, pitch) if keep else (0,)),
        [weight.new_empty((batch, height, width, 4 * hidden)) for _ in range(steps if keep else 0)],
        weight.new_empty((0,) if memory == "none" else (steps + 1, batch, height, width, hidden), dtype=torch.float32),
    )


@torch.library.register_fake("rlv2v_fast::convlstm_triton_bwd", lib=LIBRARY)
def _bwd_fake(
    grad_output: Tensor,
    grad_h: Tensor,
    grad_c: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    peephole: Tensor | None,
    lengths: Tensor | None,
    output: Tensor,
    slots: Tensor,
    gates: list[Tensor],
    cells: Tensor,
    need_x: bool,
    need_weight: bool,
    need_h0: bool,
) -> tuple[Tensor, ...]:
    def gradient_of(tensor: Tensor | None, needed: bool = True) -> Tensor:
        return x.new_empty(0) if tensor is None or not needed else tensor.new_empty(tensor.shape)

    return (
        gradient_of(x, need_x),
        gradient_of(weight, need_weight),
        gradient_of(bias),
        gradient_of(h0, need_h0),
        gradient_of(c0),
        gradient_of(peephole),
    )


def _save_fwd(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    *tensors, ctx.memory = inputs
    sequence, _, _, slots, gates, cells = output
    ctx.mark_non_differentiable(slots, *gates, cells)
    # Slots hold every h already; keeping the output beside them would keep it twice.
    output_for_low = sequence if ctx.memory == "low" else sequence.new_empty(0)
    ctx.save_for_backward(*tensors, output_for_low, slots, cells, *gates)


def _fwd_autograd(ctx: Any, grad_output: Tensor, grad_h: Tensor, grad_c: Tensor, *_: Any) -> tuple[Any, ...]:
    if ctx.memory == "none":
        raise RuntimeError("convlstm_triton_fwd ran with memory='none' and kept nothing for a backward")
    need_x, need_weight, need_bias, need_h0, need_c0, need_peephole, *_ = ctx.needs_input_grad
    (*inputs, output, slots, cells), gates = ctx.saved_tensors[:10], list(ctx.saved_tensors[10:])
    grads = torch.ops.rlv2v_fast.convlstm_triton_bwd(
        grad_output, grad_h, grad_c, *inputs, output, slots, gates, cells, need_x, need_weight, need_h0
    )
    needed = (need_x, need_weight, need_bias, need_h0, need_c0, need_peephole)
    return *(grad if need else None for grad, need in zip(grads, needed, strict=True)), None, None


def _save_bwd(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *differentiable, lengths, _output, _slots, gates, _cells, need_x, need_weight, need_h0 = inputs
    ctx.save_for_backward(*differentiable, lengths)
    ctx.kept_gates = len(gates)
    ctx.needed = (need_x, need_weight, need_h0)


def _bwd_autograd(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    """Second derivatives: the reference's first ones, recorded, differentiated by PyTorch.

    What the forward saved (its output, slots, gates, cells) is a function of the inputs, so all of the derivative is
    attributed to those.
    """
    *tensors, lengths = ctx.saved_tensors
    with torch.enable_grad():
        tensors = [t if t is None else t.detach().requires_grad_() for t in tensors]
        x, weight, bias, h0, c0, peephole = tensors[3:]
        # Under autocast x and bias are wider than the weight; the kernels cast them too.
        half_bias = None if bias is None else bias.to(weight.dtype)
        results = convlstm_reference(x.to(weight.dtype), weight, half_bias, h0, c0, peephole, lengths)
        need_x, need_weight, need_h0 = ctx.needed
        wanted = ((x, need_x), (weight, need_weight), (bias, True), (h0, need_h0), (c0, True), (peephole, True))
        pairs = [
            (tensor, grad)
            for (tensor, needed), grad in zip(wanted, grads, strict=True)
            if tensor is not None and needed and grad is not None
        ]
        first = torch.autograd.grad(results, [t for t, _ in pairs], tensors[:3], create_graph=True)
        inputs = [t for t in tensors if t is not None]
        second = torch.autograd.grad(first, inputs, [grad for _, grad in pairs], allow_unused=True)
    found = iter(second)
    lengths_output_slots, cells_and_needs = (None,) * 3, (None,) * 4
    return (
        *(None if t is None else next(found) for t in tensors),
        *lengths_output_slots,
        [None] * ctx.kept_gates,
        *cells_and_needs,
    )


torch.library.register_autograd("rlv2v_fast::convlstm_triton_fwd", _fwd_autograd, setup_context=_save_fwd, lib=LIBRARY)
torch.library.register_autograd("rlv2v_fast::convlstm_triton_bwd", _bwd_autograd, setup_context=_save_bwd, lib=LIBRARY)
