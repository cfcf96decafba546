"""Experimental: a whole ConvLSTM step in one Triton kernel, for inference, the 4K gates never in memory.

The convolution is an implicit GEMM of M = B*H*W pixels by N = 4K gates over kh*kw*P input channels, on the inputs
of convlstm_sequence.py; its epilogue is the gate update of convlstm_gates.py on the float32 accumulators.

What it saves against a convolution and a gate kernel is the gates' way to memory and back, 8e bytes per state element
with e bytes an entry, and a launch per step. What it costs is that the GEMM is Triton's and not cuDNN's. It is not
chosen by any operator: that takes a measurement.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from rlv2v_fast.kernels.convlstm_gates import channel_row, sigmoid, tanh
from rlv2v_fast.kernels.convlstm_sequence import Layer, chunk_steps
from rlv2v_fast.kernels.layer_inputs import LayerInputs, channels_first

# Of a program: pixels and hidden channels, hence a 128 x 128 accumulator, 64 registers a thread at 8 warps.
BLOCK_PIXELS = 128
BLOCK_HIDDEN = 32
NUM_WARPS = 8
NUM_STAGES = 3
# A tensor-core result tile is 8 columns wide. Columns are ordered by 8 channels of gate i, the same 8 of f, o, g, the
# next 8 of i and so on: the four gates of a channel then sit in one thread, and taking them apart moves no data.
GROUP = 8


@triton.jit(do_not_specialize=["step"])
def convlstm_fused_fwd_kernel(
    conv_input_ptr,
    weight_ptr,
    bias_ptr,
    peephole_ptr,
    lengths_ptr,
    c_ptr,
    next_conv_input_ptr,
    output_ptr,
    step,
    pixels,
    height,
    width,
    output_b,
    P: tl.constexpr,
    K: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One step for BLOCK_M pixels by BLOCK_K hidden channels: c in place, h into the next step's input and the output.

    FLOPs: 8 K P kh kw a pixel and about 80 K for the gates. Bytes per pixel, e being those of an entry: at least e P
    read, 8 K of cell state, 2e K written. (B=8, C=16, K=128, 128x128, 3x3) in a half type: 175 GFLOP and 240 MB a step,
    so compute bound: an estimated (not measured) 0.3 ms at 600 TFLOP/s.
    """
    # Channel blocks run fastest: the programs that share pixels run together, and the second finds them in cache.
    channel_blocks: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    columns: tl.constexpr = (K + GROUP - 1) // GROUP * GROUP * 4
    chunks: tl.constexpr = (P + BLOCK_C - 1) // BLOCK_C
    block_k = tl.program_id(0) % channel_blocks
    m = (tl.program_id(0) // channel_blocks).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = block_k * 4 * BLOCK_K + tl.arange(0, 4 * BLOCK_K)
    sample = m // (height * width)
    s = (m % (height * width)).to(tl.int32)
    y, x = s // width, s % width

    gates = tl.zeros((BLOCK_M, 4 * BLOCK_K), tl.float32)
    for part in range(KH * KW * chunks):
        tap = part // chunks
        dy, dx = tap // KW - KH // 2, tap % KW - KW // 2
        channel = part % chunks * BLOCK_C + tl.arange(0, BLOCK_C)
        inside = (m < pixels) & (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        frame = tl.load(
            conv_input_ptr + (m + dy * width + dx)[:, None] * P + channel[None, :],
            inside[:, None] & (channel < P)[None, :],
            other=0.0,
        )
        weight = tl.load(
            weight_ptr + (tap * P + channel)[:, None] * columns + n[None, :],
            (channel < P)[:, None] & (n < columns)[None, :],
            other=0.0,
        )
        gates = tl.dot(frame, weight, gates, input_precision="ieee")

    gates = tl.permute(tl.reshape(gates, (BLOCK_M, BLOCK_K // GROUP, 4, GROUP)), (0, 1, 3, 2))
    i_and_o, f_and_g = tl.split(tl.reshape(gates, (BLOCK_M, BLOCK_K, 2, 2)))
    a_i, a_o = tl.split(i_and_o)
    a_f, a_g = tl.split(f_and_g)

    k = block_k * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    mask = (m < pixels)[:, None] & (k < K)
    c_at = c_ptr + m[:, None] * K + k
    c = tl.load(c_at, mask, other=0.0)
    if bias_ptr is not None:
        a_i += channel_row(bias_ptr, 0, k, K)
        a_f += channel_row(bias_ptr, 1, k, K)
        a_o += channel_row(bias_ptr, 2, k, K)
        a_g += channel_row(bias_ptr, 3, k, K)
    if peephole_ptr is not None:
        a_i += channel_row(peephole_ptr, 0, k, K) * c
        a_f += channel_row(peephole_ptr, 1, k, K) * c
    c_next = sigmoid(a_f) * c + sigmoid(a_i) * tanh(a_g)
    if peephole_ptr is not None:
        a_o += channel_row(peephole_ptr, 2, k, K) * c_next
    h = sigmoid(a_o) * tanh(c_next)
    output = h
    h_at = m[:, None] * P + (P - K) + k
    if lengths_ptr is not None:
        active = (step < tl.load(lengths_ptr + sample, m < pixels, other=0))[:, None]
        output = tl.where(active, h, 0.0)
        h = tl.where(active, h, tl.load(conv_input_ptr + h_at, mask, other=0.0).to(tl.float32))
        c_next = tl.where(active, c_next, c)
    tl.store(c_at, c_next, mask)
    tl.store(next_conv_input_ptr + h_at, h.to(next_conv_input_ptr.dtype.element_ty), mask)
    output_at = (sample * output_b + s)[:, None] + k.to(tl.int64) * (height * width)
    tl.store(output_ptr + output_at, output.to(output_ptr.dtype.element_ty), mask)


def interleave_gates(packed: Tensor) -> Tensor:
    """Layer.packed (4K, P, kh, kw) as the GEMM's right side: (kh*kw*P, 4*ceil8(K)), columns by GROUP as above."""
    rows, pitch, kh, kw = packed.shape
    missing = -(rows // 4) % GROUP
    gates = F.pad(packed.unflatten(0, (4, rows // 4)), (0, 0, 0, 0, 0, 0, 0, missing)).unflatten(1, (-1, GROUP))
    return gates.permute(4, 5, 3, 1, 0, 2).reshape(kh * kw * pitch, -1).contiguous()


def convlstm_fused_step(
    conv_input: Tensor,
    columns: Tensor,
    layer: Layer,
    c: Tensor,
    next_conv_input: Tensor,
    output: Tensor,
    step: int,
) -> None:
    """Launch convlstm_fused_fwd_kernel on the current device and stream.

    Args:
        conv_input: (B, H, W, P) contiguous, x_t and h_{t-1}.
        columns: interleave_gates(layer.packed).
        layer: for bias, peephole, lengths and sizes.
        c: (B, H, W, K) float32 contiguous, updated in place.
        next_conv_input: (B, H, W, P) contiguous, of which the h channels are written. Not the memory of conv_input,
            whose neighbouring pixels are read.
        output: (B, K, H, W), each sample contiguous, written.
        step: t, for lengths.
    """
    batch, height, width, pitch = conv_input.shape
    pixels = batch * height * width
    if pixels == 0:
        return
    grid = (triton.cdiv(pixels, BLOCK_PIXELS) * triton.cdiv(layer.hidden, BLOCK_HIDDEN),)
    convlstm_fused_fwd_kernel[grid](
        conv_input,
        columns,
        layer.bias,
        layer.peephole,
        layer.lengths,
        c,
        next_conv_input,
        output,
        step,
        pixels,
        height,
        width,
        output.stride(0),
        P=pitch,
        K=layer.hidden,
        KH=layer.packed.shape[2],
        KW=layer.packed.shape[3],
        BLOCK_M=BLOCK_PIXELS,
        BLOCK_K=BLOCK_HIDDEN,
        BLOCK_C=block_channels(pitch),
        GROUP=GROUP,
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
    )


def block_channels(pitch: int) -> int:
    """Input channels a turn of the GEMM's loop: 64 where that wastes no multiplication, else 32."""
    return 64 if pitch % 64 == 0 else 32


def convlstm_fused_fwd(inputs: LayerInputs) -> tuple[Tensor, Tensor, Tensor]:
    """output, h and c as of convlstm_sequence_fwd, by one kernel a step; no gradients.

    Raises:
        ValueError: weight is float32 on a GPU, where its products would need no tensor core and more registers than
            there are. Triton's interpreter takes it.
    """
    x, weight = inputs.x, inputs.weight
    if weight.dtype == torch.float32 and weight.is_cuda:
        raise ValueError("weight must be float16 or bfloat16 for the fused kernel on a GPU; got torch.float32")
    layer = Layer.pack(inputs)
    columns = interleave_gates(layer.packed)
    batch, steps, _, height, width = x.shape
    # A pixel's step reads its neighbours' last h while theirs is written: that takes the inputs of two steps at least.
    conv_inputs = layer.empty_conv_inputs(max(2, chunk_steps(steps)), x)
    conv_inputs[0, ..., layer.padded :] = inputs.h0.permute(0, 2, 3, 1)
    cell = inputs.c0.permute(0, 2, 3, 1).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    output = weight.new_empty((batch, steps, layer.hidden, height, width))
    for step in range(steps):
        at = step % len(conv_inputs)
        if at == 0:
            layer.fill_conv_inputs(conv_inputs, x[:, step : step + len(conv_inputs)])
        following = conv_inputs[(at + 1) % len(conv_inputs)]
        convlstm_fused_step(conv_inputs[at], columns, layer, cell, following, output[:, step], step)
    h = channels_first(conv_inputs[steps % len(conv_inputs)][..., layer.padded :])
    return (
        output,
        h.clone(memory_format=torch.contiguous_format),
        channels_first(cell).clone(memory_format=torch.contiguous_format),
    )
