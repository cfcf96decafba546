"""A ConvLSTM layer over a whole sequence: one convolution by PyTorch (cuDNN) and one Triton gate kernel per step.

The inputs of the convolutions live in `conv_inputs`, (steps, B, H, W, P) in memory. The one of step t is a
channels_last view that holds x_t and h_{t-1} side by side:

    channels [0, C) x_t  |  [C, P - K) zeros  |  [P - K, P) h_{t-1}

so nothing is ever concatenated: x arrives in one strided copy, and the gate kernel writes h_t straight into the input
of step t+1 (the last h, into the tensor returned). P rounds C+K up until a pixel is a whole number of 16 bytes, the
alignment at which tensor-core convolutions need no padded copy of their own and h is stored in whole vectors; the
weight gets zero columns there.

The bias is added by the gate kernel, where it costs nothing; as an argument of the convolution it would be one more
pass over the 4K gates. The backward's loop holds only what is sequential, the gradient of h: the gradients of the
weight and of x are one convolution each over all steps at once, and those of bias and peephole are sums the kernel
keeps.

FLOPs per pixel-step: 8 K (C+K) kh kw forward, twice that backward (three times with memory "low"). Bytes per
pixel-step, e being those of the convolution's dtype, beside the convolution's own: e (2C + K) for x and h, and the gate
kernel's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.kernels.convlstm_gates import (
    BIAS_ROWS,
    convlstm_gates_bwd,
    convlstm_gates_fwd,
    empty_sums,
)
from rlv2v_fast.kernels.layer_inputs import LayerInputs, channels_first, padded_channels

# What a forward leaves for its backward. "fast": convolution inputs, gates and cell states. "low": cell states; the
# others are computed again, some steps at a time, from x and the output. "none": nothing.
MEMORY = ("fast", "low", "none")

_MAX_CHUNK_STEPS = 8


class SequenceForward(NamedTuple):
    """Results of convlstm_sequence_fwd; what its memory mode does not keep has no elements."""

    output: Tensor  # (B, T, K, H, W)
    h: Tensor  # (B, K, H, W)
    c: Tensor  # (B, K, H, W) float32
    conv_inputs: Tensor  # (T, B, H, W, P)
    gates: list[Tensor]  # T of (B, H, W, 4K), pre-activations without bias, as the convolutions left them
    cells: Tensor  # (T+1, B, H, W, K) float32


class SequenceResults(NamedTuple):
    """The results of a layer, or gradients of them."""

    output: Tensor  # (B, T, K, H, W)
    h: Tensor  # (B, K, H, W)
    c: Tensor  # (B, K, H, W)


class SequenceKept(NamedTuple):
    """What a SequenceForward has for its backward."""

    output: Tensor
    conv_inputs: Tensor
    gates: Sequence[Tensor]
    cells: Tensor


class SequenceGradients(NamedTuple):
    """Results of convlstm_sequence_bwd; None for what was not asked for or has no input."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    h0: Tensor | None
    c0: Tensor
    peephole: Tensor | None


def chunk_steps(steps: int) -> int:
    """Steps whose inputs (in the backward also gates) exist at once unless memory is "fast": a quarter, at most 8."""
    return min(_MAX_CHUNK_STEPS, math.ceil(steps / 4))


@dataclass(frozen=True)
class Layer:
    """A layer's parameters as the loops want them."""

    packed: Tensor  # (4K, P, kh, kw) channels_last, zero where inputs are padded
    bias: Tensor | None
    peephole: Tensor | None
    lengths: Tensor | None
    channels: int

    @classmethod
    def pack(cls, inputs: LayerInputs) -> Layer:
        weight, channels = inputs.weight, inputs.x.shape[2]
        rows, columns, *kernel = weight.shape
        padded = padded_channels(channels, rows // 4, weight.element_size())
        packed = weight.new_empty((rows, *kernel, columns - channels + padded)).permute(0, 3, 1, 2)
        packed[:, :channels] = weight[:, :channels]
        packed[:, channels:padded] = 0
        packed[:, padded:] = weight[:, channels:]
        others = (inputs.bias, inputs.peephole, inputs.lengths)
        bias, peephole, lengths = (t if t is None else t.contiguous() for t in others)
        return cls(packed, bias, peephole, lengths, channels)

    def unpack(self, grad_packed: Tensor) -> Tensor:
        """The gradient of packed as that of the weight: contiguous, without padding, in the weight's dtype."""
        parts = grad_packed[:, : self.channels], grad_packed[:, self.padded :]
        return torch.cat(parts, dim=1).to(self.packed.dtype, memory_format=torch.contiguous_format)

    @property
    def hidden(self) -> int:
        return self.packed.shape[0] // 4

    @property
    def padded(self) -> int:
        return self.packed.shape[1] - self.hidden

    @property
    def padding(self) -> list[int]:
        return [self.packed.shape[2] // 2, self.packed.shape[3] // 2]

    def empty_conv_inputs(self, count: int, x: Tensor) -> Tensor:
        """Inputs of `count` steps for frames like those of x; only their padding is written."""
        batch, _, _, height, width = x.shape
        conv_inputs = self.packed.new_empty((count, batch, height, width, self.packed.shape[1]))
        conv_inputs[..., self.channels : self.padded] = 0
        return conv_inputs

    def fill_conv_inputs(self, conv_inputs: Tensor, x: Tensor) -> None:
        """Write frames x (B, n, C, H, W) into the inputs of the first n steps, casting where dtypes differ."""
        conv_inputs[: x.shape[1], ..., : self.channels].copy_(x.permute(1, 0, 3, 4, 2))

    def convolve(self, conv_inputs: Tensor) -> Tensor:
        """Pre-activations (N, 4K, H, W) without bias of conv_inputs (N, H, W, P), channels_last."""
        gates = F.conv2d(channels_first(conv_inputs), self.packed, padding=self.padding)
        # cuDNN keeps the layout of its input; what stands in for it elsewhere may not.
        return gates.contiguous(memory_format=torch.channels_last)

    def columns(self, start: int, stop: int) -> Tensor:
        """The weight of input channels [start, stop), for input_gradient."""
        return self.packed[:, start:stop].contiguous(memory_format=torch.channels_last)

    def input_gradient(self, grad_gates: Tensor, columns: Tensor) -> Tensor:
        """Gradient (N, n, H, W) of the n input channels whose weight is columns."""
        # At stride 1 this is the gradient of "same" convolution; unlike convolution_backward it needs no input.
        return F.conv_transpose2d(grad_gates, columns, padding=self.padding)

    def weight_gradient(self, grad_gates: Tensor, conv_inputs: Tensor) -> Tensor:
        """Gradient (4K, P, kh, kw) over all frames of conv_inputs (N, H, W, P)."""
        stride, dilation, output_padding = [1, 1], [1, 1], [0, 0]
        _, grad, _ = torch.ops.aten.convolution_backward(
            grad_gates, channels_first(conv_inputs), self.packed, None,
            stride, self.padding, dilation, False, output_padding, 1, [False, True, False],
        )  # fmt: skip
        return grad


def convlstm_sequence_fwd(inputs: LayerInputs, memory: str) -> SequenceForward:
    """Run the layer on the current device and stream; nothing is recorded for autograd.

    Args:
        inputs: T >= 1. The convolutions run in the weight's dtype, float32, float16 or bfloat16; the
            others may have any strides and float dtype, and the kernel uses bias and peephole in float32.
        memory: one of MEMORY.

    Returns:
        SequenceForward; output and h in weight's dtype, all contiguous.
    """
    layer = Layer.pack(inputs)
    x, weight = inputs.x, inputs.weight
    batch, steps, _, height, width = x.shape
    hidden, keep = layer.hidden, memory == "fast"
    conv_inputs = layer.empty_conv_inputs(steps if keep else chunk_steps(steps), x)
    kept_gates = []
    state_count = 1 if memory == "none" else steps + 1
    cells = weight.new_empty((state_count, batch, height, width, hidden), dtype=torch.float32)
    output = weight.new_empty((batch, steps, hidden, height, width))
    h = weight.new_empty((batch, hidden, height, width))
    conv_inputs[0, ..., layer.padded :] = inputs.h0.permute(0, 2, 3, 1)
    cells[0] = inputs.c0.permute(0, 2, 3, 1)

    for step in range(steps):
        # The inputs are a ring: a step writes only the h channels of the next one, so the x channels of a whole turn
        # can be filled at once. A ring of one is sound too, for h is written after the convolution has read it.
        at = step % len(conv_inputs)
        if at == 0:
            layer.fill_conv_inputs(conv_inputs, x[:, step : step + len(conv_inputs)])
        conv_input = conv_inputs[at]
        gates = layer.convolve(conv_input)
        if keep:
            kept_gates.append(gates.permute(0, 2, 3, 1))
        convlstm_gates_fwd(
            gates,
            channels_first(cells[step % state_count]),
            h if step + 1 == steps else channels_first(conv_inputs[(at + 1) % len(conv_inputs)][..., layer.padded :]),
            channels_first(cells[(step + 1) % state_count]),
            bias=layer.bias,
            peephole=layer.peephole,
            lengths=layer.lengths,
            h_prev=channels_first(conv_input[..., layer.padded :]),
            step=step,
            output=output[:, step],
        )
    # A copy, so that keeping the state does not keep its sequence.
    c = channels_first(cells[-1]).clone(memory_format=torch.contiguous_format)
    return SequenceForward(
        output,
        h,
        c,
        conv_inputs if keep else conv_inputs.new_empty(0),
        kept_gates,
        cells if memory != "none" else cells.new_empty(0),
    )


class _Chunk(NamedTuple):
    """Steps [start, stop) of the backward: convolution inputs, gates, and where the gradients of the gates go."""

    start: int
    stop: int
    conv_inputs: Tensor  # (n, B, H, W, P)
    gates: Sequence[Tensor]  # n of (B, H, W, 4K)
    grad_gates: Tensor  # (n, B, H, W, 4K), may be the memory of gates


def _recomputed_chunks(layer: Layer, x: Tensor, h0: Tensor, output: Tensor) -> Iterator[_Chunk]:
    """Inputs and pre-activations of a few steps at a time, last steps first, by one convolution a chunk.

    The gradients overwrite the pre-activations. Where a sample has ended its output is zero though its state was not;
    no gradient passes there, so that neither matters.
    """
    steps = x.shape[1]
    count = chunk_steps(steps)
    buffer = layer.empty_conv_inputs(count, x)
    for start in range((steps - 1) // count * count, -1, -count):
        stop = min(start + count, steps)
        conv_inputs = buffer[: stop - start]
        layer.fill_conv_inputs(conv_inputs, x[:, start:stop])
        conv_inputs[0, ..., layer.padded :] = (output[:, start - 1] if start else h0).permute(0, 2, 3, 1)
        conv_inputs[1:, ..., layer.padded :] = output[:, start : stop - 1].permute(1, 0, 3, 4, 2)
        gates = layer.convolve(conv_inputs.flatten(0, 1)).permute(0, 2, 3, 1).unflatten(0, conv_inputs.shape[:2])
        yield _Chunk(start, stop, conv_inputs, gates.unbind(0), gates)


@dataclass
class _Backward:
    """What the backward's loop over time carries and adds to."""

    layer: Layer
    cells: Tensor  # (T+1, B, H, W, K)
    grad_output: Tensor  # (B, T, K, H, W)
    grad_last: Tensor | None  # (B, K, H, W), of the last h, where lengths say when that is
    grad_h: Tensor | None  # (B, K, H, W), of h after the step at hand
    grad_c: Tensor  # (B, K, H, W) float32, channels_last, of c after the step at hand
    sums: Tensor | None = None  # (programs, 4 or 7, K)

    def run(self, chunk: _Chunk, *, need_h0: bool) -> None:
        """Step through the chunk, last step first: fill chunk.grad_gates, move grad_h and grad_c before the chunk."""
        layer = self.layer
        h_columns = layer.columns(layer.padded, layer.packed.shape[1])
        for step in range(chunk.stop - 1, chunk.start - 1, -1):
            grad_gates = channels_first(chunk.grad_gates[step - chunk.start])
            convlstm_gates_bwd(
                channels_first(chunk.gates[step - chunk.start]),
                channels_first(self.cells[step]),
                channels_first(self.cells[step + 1]),
                self.grad_c,
                grad_gates,
                self.grad_c,
                grad_output=self.grad_output[:, step],
                grad_h=self.grad_h,
                grad_last=self.grad_last,
                bias=layer.bias,
                peephole=layer.peephole,
                lengths=layer.lengths,
                step=step,
                sums=self.sums,
            )
            if step > 0 or need_h0:
                self.grad_h = layer.input_gradient(grad_gates, h_columns)

    def initial_h_gradient(self, h0: Tensor) -> Tensor:
        """After the first step: the gradient of h0, contiguous."""
        assert self.grad_h is not None
        grad = torch.empty_like(h0, memory_format=torch.contiguous_format).copy_(self.grad_h)
        if self.grad_last is None or self.layer.lengths is None:
            return grad
        # A sample of no steps hands its state through.
        return torch.where((self.layer.lengths == 0)[:, None, None, None], self.grad_last.to(grad.dtype), grad)

    def parameter_gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """Of bias (4K,) and peephole (3, K), where there are such."""
        bias, peephole, sums = self.layer.bias, self.layer.peephole, self.sums
        return (
            None if bias is None or sums is None else sums[:, :BIAS_ROWS].sum(dim=0).flatten().to(bias.dtype),
            None if peephole is None or sums is None else sums[:, BIAS_ROWS:].sum(dim=0).to(peephole.dtype),
        )


def _one_pixel_axis(tensor: Tensor) -> Tensor:
    """tensor, copied where its H and W cannot be walked with one stride, which the kernels need."""
    height, width = tensor.shape[-2:]
    mergeable = height == 1 or width == 1 or tensor.stride(-2) == width * tensor.stride(-1)
    return tensor if mergeable else tensor.contiguous()


def convlstm_sequence_bwd(
    grads: SequenceResults,
    inputs: LayerInputs,
    kept: SequenceKept,
    *,
    need_x: bool,
    need_weight: bool,
    need_h0: bool,
) -> SequenceGradients:
    """Gradients of convlstm_sequence_fwd. It changes nothing that the forward saved: it may run any number of times.

    Args:
        grads: of output (B, T, K, H, W), h and c (B, K, H, W); any strides and float dtype.
        inputs: as of the forward; c0 is not read.
        kept: of the forward's results, with memory "fast" or "low".
        need_x, need_weight, need_h0: whether to compute that gradient; each takes convolutions.

    Returns:
        SequenceGradients, each contiguous and in the dtype of its input, except that c0's is float32.
    """
    layer, x, gates = Layer.pack(inputs), inputs.x, kept.gates
    batch, steps = x.shape[:2]
    grad_h, ends_early = _one_pixel_axis(grads.h), inputs.lengths is not None
    state = _Backward(
        layer,
        kept.cells,
        _one_pixel_axis(grads.output),
        grad_last=grad_h if ends_early else None,
        grad_h=None if ends_early else grad_h,
        grad_c=channels_first(torch.empty_like(kept.cells[0]).copy_(grads.c.permute(0, 2, 3, 1))),
    )
    if inputs.bias is not None or inputs.peephole is not None:
        state.sums = empty_sums(state.grad_c, peephole=inputs.peephole is not None)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else None
    # Chunks add up in float32: in a half type every addition would round what came before.
    grad_packed = torch.zeros_like(layer.packed, dtype=torch.float32) if need_weight else None
    x_columns = layer.columns(0, layer.padded)
    chunks: Iterable[_Chunk] = _recomputed_chunks(layer, x, inputs.h0, kept.output)
    if len(gates) > 0:
        chunks = [_Chunk(0, steps, kept.conv_inputs, gates, gates[0].new_empty((steps, *gates[0].shape)))]
    for chunk in chunks:
        state.run(chunk, need_h0=need_h0)
        grad_gates = channels_first(chunk.grad_gates.flatten(0, 1))
        if grad_packed is not None:
            grad_packed += layer.weight_gradient(grad_gates, chunk.conv_inputs.flatten(0, 1))
        if grad_x is not None:
            frames = layer.input_gradient(grad_gates, x_columns)[:, : layer.channels]
            grad_x[:, chunk.start : chunk.stop] = frames.unflatten(0, (chunk.stop - chunk.start, batch)).transpose(0, 1)
    grad_bias, grad_peephole = state.parameter_gradients()
    return SequenceGradients(
        grad_x,
        None if grad_packed is None else layer.unpack(grad_packed),
        grad_bias,
        state.initial_h_gradient(inputs.h0) if need_h0 else None,
        state.grad_c.clone(memory_format=torch.contiguous_format),
        grad_peephole,
    )
