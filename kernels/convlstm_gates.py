"""convlstm_gates in Triton: one ConvLSTM step after its convolution, forward and backward.

Forward, from pre-activations a = convolution + bias (rows i, f, o, g of `gates`) and peephole weights p:

    i = sigmoid(a_i + p_i c)    f = sigmoid(a_f + p_f c)    g = tanh(a_g)
    c' = f c + i g              o = sigmoid(a_o + p_o c')   h = o tanh(c')

Backward, with t = tanh(c') and dh, dc' the gradients of h and c':

    da_o = dh t o (1 - o)           dc' += dh o (1 - t^2) + p_o da_o
    da_i = dc' g i (1 - i)          da_f = dc' c f (1 - f)          da_g = dc' i (1 - g^2)
    dc = dc' f + p_i da_i + p_f da_f
    dp_i = sum da_i c               dp_f = sum da_f c               dp_o = sum da_o c'          dbias = sum da

Source: Shi et al. 2015, "Convolutional LSTM Network", eq. 3, with per-channel peephole weights.

Every tensor is read and written through three strides (sample, pixel, channel), so one kernel serves channels_last and
contiguous gates, a state inside a wider channels_last buffer, and gradients expanded with stride 0. A program handles a
tile of pixels of one sample by channels. All arithmetic is float32. Offsets are 64-bit throughout: the kernels wait for
memory, not for integer units, and a 32-bit variant would be a second one to test.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# 1024 elements are 8 a thread at 4 warps: one 16-byte access of half-precision gates. At 32 channels a row, both
# orders of a tile (32 channels of a pixel, 32 pixels of a channel) fill whole 32-byte sectors.
TILE_ELEMENTS = 1024
MAX_BLOCK_CHANNELS = 32
NUM_WARPS = 4

# Rows of the per-program sums: the bias of gates i, f, o, g, then the peephole of i, f, o.
BIAS_ROWS = 4
PEEPHOLE_ROWS = 3


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """tanh with a small relative error everywhere; 2 sigmoid(2x) - 1 would cancel near zero.

    The polynomial is the Cephes single-precision minimax one for |x| < 0.625. NaN fails the comparison and passes
    through exp.
    """
    z = x * x
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    large = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.625, p * z * x + x, tl.where(x < 0.0, -large, large))


@triton.jit
def _tile(pixels, K: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr):
    """Of this program: its row of programs, sample, pixels (BLOCK_S, 1), channels (1, BLOCK_K), and which exist.

    Channel blocks run fastest, so that neighbouring programs share the cache lines of a channels_last pixel.
    """
    channel_blocks: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    row = tl.program_id(0) // channel_blocks
    pixel_blocks = tl.cdiv(pixels, BLOCK_S)
    sample = (row // pixel_blocks).to(tl.int64)
    s = ((row % pixel_blocks) * BLOCK_S + tl.arange(0, BLOCK_S)).to(tl.int64)[:, None]
    k = ((tl.program_id(0) % channel_blocks) * BLOCK_K + tl.arange(0, BLOCK_K)).to(tl.int64)[None, :]
    return row.to(tl.int64), sample, s, k, (s < pixels) & (k < K)


@triton.jit
def _at(pointer, sample, s, k, stride_b, stride_s, stride_k):
    return pointer + sample * stride_b + s * stride_s + k * stride_k


@triton.jit
def _load(pointer, mask):
    return tl.load(pointer, mask, other=0.0).to(tl.float32)


@triton.jit
def _store(pointer, value, mask):
    tl.store(pointer, value.to(pointer.dtype.element_ty), mask)


@triton.jit
def channel_row(pointer, row: tl.constexpr, k, K: tl.constexpr):
    """Row `row` of a (rows, K) parameter as (1, BLOCK_K)."""
    return _load(pointer + row * K + k, k < K)


@triton.jit
def _add_to_row(pointer, row: tl.constexpr, values, k, K: tl.constexpr):
    """Add the pixel sum of values to a row that only this program touches: no atomics, hence reproducible."""
    at = pointer + row * K + k
    _store(at, _load(at, k < K) + tl.sum(values, axis=0)[None, :], k < K)


@triton.jit
def _pre_activations(gates_ptr, bias_ptr, sample, s, k, mask, gates_b, gates_s, gates_k, K: tl.constexpr):
    a_i = _load(_at(gates_ptr, sample, s, k, gates_b, gates_s, gates_k), mask)
    a_f = _load(_at(gates_ptr, sample, s, k + K, gates_b, gates_s, gates_k), mask)
    a_o = _load(_at(gates_ptr, sample, s, k + 2 * K, gates_b, gates_s, gates_k), mask)
    a_g = _load(_at(gates_ptr, sample, s, k + 3 * K, gates_b, gates_s, gates_k), mask)
    if bias_ptr is not None:
        a_i += channel_row(bias_ptr, 0, k, K)
        a_f += channel_row(bias_ptr, 1, k, K)
        a_o += channel_row(bias_ptr, 2, k, K)
        a_g += channel_row(bias_ptr, 3, k, K)
    return a_i, a_f, a_o, a_g


# The step counts up with time: specializing on its value would compile anew for step 1 and for every 16th step.
@triton.jit(do_not_specialize=["step"])
def convlstm_gates_fwd_kernel(
    gates_ptr,
    bias_ptr,
    peephole_ptr,
    c_ptr,
    h_prev_ptr,
    lengths_ptr,
    h_ptr,
    c_next_ptr,
    output_ptr,
    step,
    pixels,
    gates_b,
    gates_s,
    gates_k,
    c_b,
    c_s,
    c_k,
    h_prev_b,
    h_prev_s,
    h_prev_k,
    h_b,
    h_s,
    h_k,
    output_b,
    output_s,
    output_k,
    K: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """c', h and, where asked for, the same h in the sequence's output, from pre-activations (module docstring).

    Bytes per state element, e being the bytes of the gates' dtype: 4e gates, 4 c, 4 c', e h, e output. FLOPs: about 80,
    10 of them exponentials and reciprocals. In a half type that is 20 bytes, so memory bound: (B=2, K=64, 64x64) moves
    10.5 MB, an estimated (not measured) 2.2 us at 4.8 TB/s.
    """
    _, sample, s, k, mask = _tile(pixels, K, BLOCK_S, BLOCK_K)
    c = _load(_at(c_ptr, sample, s, k, c_b, c_s, c_k), mask)
    a_i, a_f, a_o, a_g = _pre_activations(gates_ptr, bias_ptr, sample, s, k, mask, gates_b, gates_s, gates_k, K)
    if peephole_ptr is not None:
        a_i += channel_row(peephole_ptr, 0, k, K) * c
        a_f += channel_row(peephole_ptr, 1, k, K) * c
    i, f, g = sigmoid(a_i), sigmoid(a_f), tanh(a_g)
    c_next = f * c + i * g
    if peephole_ptr is not None:
        a_o += channel_row(peephole_ptr, 2, k, K) * c_next
    o = sigmoid(a_o)
    h = o * tanh(c_next)
    output = h

    if lengths_ptr is not None:
        active = step < tl.load(lengths_ptr + sample)
        output = tl.where(active, h, 0.0)
        h = tl.where(active, h, _load(_at(h_prev_ptr, sample, s, k, h_prev_b, h_prev_s, h_prev_k), mask))
        c_next = tl.where(active, c_next, c)
    _store(_at(c_next_ptr, sample, s, k, c_b, c_s, c_k), c_next, mask)
    _store(_at(h_ptr, sample, s, k, h_b, h_s, h_k), h, mask)
    if output_ptr is not None:
        _store(_at(output_ptr, sample, s, k, output_b, output_s, output_k), output, mask)


@triton.jit(do_not_specialize=["step"])
def convlstm_gates_bwd_kernel(
    gates_ptr,
    bias_ptr,
    peephole_ptr,
    c_ptr,
    c_next_ptr,
    grad_c_next_ptr,
    grad_output_ptr,
    grad_h_ptr,
    grad_last_ptr,
    lengths_ptr,
    grad_gates_ptr,
    grad_c_ptr,
    sums_ptr,
    step,
    pixels,
    gates_b,
    gates_s,
    gates_k,
    c_b,
    c_s,
    c_k,
    grad_output_b,
    grad_output_s,
    grad_output_k,
    grad_h_b,
    grad_h_s,
    grad_h_k,
    grad_last_b,
    grad_last_s,
    grad_last_k,
    K: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradients of the pre-activations and of c, and this program's share of the parameter gradients.

    dh is the sum of grad_output, grad_h and, at a sample's last step, grad_last. The gates are activated again from
    their pre-activations: those are what the convolution wrote, so the forward kernel writes nothing more for the
    backward, and i (1 - i) of a saturated gate keeps the digits that an i rounded to a half type has lost.

    Bytes per state element, e being the bytes of the gates' dtype: 4e gates, 4 c, 4 c', 4 dc', 2e dh, 4e da, 4 dc.
    FLOPs: about 120, 10 of them exponentials and reciprocals. In a half type that is 36 bytes, so memory bound:
    (B=2, K=64, 64x64) moves 18.9 MB, an estimated (not measured) 4 us at 4.8 TB/s.
    """
    row, sample, s, k, mask = _tile(pixels, K, BLOCK_S, BLOCK_K)
    c = _load(_at(c_ptr, sample, s, k, c_b, c_s, c_k), mask)
    c_next = _load(_at(c_next_ptr, sample, s, k, c_b, c_s, c_k), mask)
    a_i, a_f, a_o, a_g = _pre_activations(gates_ptr, bias_ptr, sample, s, k, mask, gates_b, gates_s, gates_k, K)
    if peephole_ptr is not None:
        a_i += channel_row(peephole_ptr, 0, k, K) * c
        a_f += channel_row(peephole_ptr, 1, k, K) * c
        a_o += channel_row(peephole_ptr, 2, k, K) * c_next
    i, f, o, g, t = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o), tanh(a_g), tanh(c_next)

    grad_h = tl.zeros((BLOCK_S, BLOCK_K), tl.float32)
    if grad_output_ptr is not None:
        grad_h += _load(_at(grad_output_ptr, sample, s, k, grad_output_b, grad_output_s, grad_output_k), mask)
    if grad_h_ptr is not None:
        grad_h += _load(_at(grad_h_ptr, sample, s, k, grad_h_b, grad_h_s, grad_h_k), mask)
    # Two ifs: the first is decided at compile time and hides the second, which a joined condition would not.
    if grad_last_ptr is not None:  # noqa: SIM102
        if step == tl.load(lengths_ptr + sample) - 1:
            grad_h += _load(_at(grad_last_ptr, sample, s, k, grad_last_b, grad_last_s, grad_last_k), mask)

    grad_c_next = _load(_at(grad_c_next_ptr, sample, s, k, c_b, c_s, c_k), mask)
    grad_o = grad_h * t * o * (1.0 - o)
    grad_state = grad_c_next + grad_h * o * (1.0 - t * t)
    if peephole_ptr is not None:
        grad_state += channel_row(peephole_ptr, 2, k, K) * grad_o
    grad_i = grad_state * g * i * (1.0 - i)
    grad_f = grad_state * c * f * (1.0 - f)
    grad_g = grad_state * i * (1.0 - g * g)
    grad_c = grad_state * f
    if peephole_ptr is not None:
        grad_c += channel_row(peephole_ptr, 0, k, K) * grad_i + channel_row(peephole_ptr, 1, k, K) * grad_f

    if lengths_ptr is not None:
        active = step < tl.load(lengths_ptr + sample)
        grad_i, grad_f = tl.where(active, grad_i, 0.0), tl.where(active, grad_f, 0.0)
        grad_o, grad_g = tl.where(active, grad_o, 0.0), tl.where(active, grad_g, 0.0)
        grad_c = tl.where(active, grad_c, grad_c_next)
    _store(_at(grad_gates_ptr, sample, s, k, gates_b, gates_s, gates_k), grad_i, mask)
    _store(_at(grad_gates_ptr, sample, s, k + K, gates_b, gates_s, gates_k), grad_f, mask)
    _store(_at(grad_gates_ptr, sample, s, k + 2 * K, gates_b, gates_s, gates_k), grad_o, mask)
    _store(_at(grad_gates_ptr, sample, s, k + 3 * K, gates_b, gates_s, gates_k), grad_g, mask)
    _store(_at(grad_c_ptr, sample, s, k, c_b, c_s, c_k), grad_c, mask)

    if sums_ptr is not None:
        sums = sums_ptr + row * (4 * K if peephole_ptr is None else 7 * K)
        _add_to_row(sums, 0, grad_i, k, K)
        _add_to_row(sums, 1, grad_f, k, K)
        _add_to_row(sums, 2, grad_o, k, K)
        _add_to_row(sums, 3, grad_g, k, K)
        if peephole_ptr is not None:
            _add_to_row(sums, 4, grad_i * c, k, K)
            _add_to_row(sums, 5, grad_f * c, k, K)
            _add_to_row(sums, 6, grad_o * c_next, k, K)


def blocks(pixels: int, hidden: int) -> tuple[int, int]:
    """(BLOCK_S, BLOCK_K) of a tile: fixed by K, and cut down for images smaller than it."""
    block_k = min(triton.next_power_of_2(hidden), MAX_BLOCK_CHANNELS)
    return min(TILE_ELEMENTS // block_k, triton.next_power_of_2(pixels)), block_k


def empty_sums(c: Tensor, *, peephole: bool) -> Tensor:
    """Zeroed per-program sums for convlstm_gates_bwd: (programs, 4 or 7, K) float32; add them up over programs.

    Over all the steps of a sequence one such tensor is enough: every program keeps adding to the row it owns.
    """
    batch, hidden, height, width = c.shape
    rows = batch * triton.cdiv(height * width, blocks(height * width, hidden)[0])
    return c.new_zeros((rows, BIAS_ROWS + (PEEPHOLE_ROWS if peephole else 0), hidden), dtype=torch.float32)


def pixel_strides(name: str, tensor: Tensor | None) -> tuple[int, int, int]:
    """(sample, pixel, channel) strides of a (B, K, H, W) tensor; zeros for None.

    Raises:
        ValueError: rows do not follow one another at one distance, so that H and W are not one axis of pixels.
    """
    if tensor is None:
        return 0, 0, 0
    batch, channels, height, width = tensor.shape
    stride_b, stride_k, stride_h, stride_w = tensor.stride()
    if height > 1 and width > 1 and stride_h != width * stride_w:
        raise ValueError(f"{name} must have H and W that form one axis of pixels; got strides {tensor.stride()}")
    # The stride of an axis of one is arbitrary: making it zero keeps equal layouts equal.
    stride_s = stride_w if width > 1 else (stride_h if height > 1 else 0)
    return stride_b if batch > 1 else 0, stride_s, stride_k if channels > 1 else 0


def _same_layout(name: str, tensor: Tensor | None, like: Tensor) -> None:
    if tensor is not None and pixel_strides(name, tensor) != pixel_strides(name, like):
        raise ValueError(f"{name} must have the strides {like.stride()} of its counterpart; got {tensor.stride()}")


def _dense(name: str, tensor: Tensor | None) -> None:
    if tensor is not None and not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous; got strides {tensor.stride()}")


def _grid(c: Tensor, block_s: int, block_k: int) -> tuple[int]:
    batch, hidden, height, width = c.shape
    return (batch * triton.cdiv(height * width, block_s) * triton.cdiv(hidden, block_k),)


def convlstm_gates_fwd(
    gates: Tensor,
    c: Tensor,
    h: Tensor,
    c_next: Tensor,
    *,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    lengths: Tensor | None = None,
    h_prev: Tensor | None = None,
    step: int = 0,
    output: Tensor | None = None,
) -> None:
    """Launch convlstm_gates_fwd_kernel on the current device and stream.

    H and W must form one axis of pixels (pixel_strides); strides are free otherwise.

    Args:
        gates: (B, 4K, H, W) pre-activations without bias; float32, float16 or bfloat16.
        c: (B, K, H, W) float32.
        h: (B, K, H, W), written; any float dtype, usually a slice of the next step's convolution input.
        c_next: (B, K, H, W) float32, written; c's strides, and may be c itself.
        bias: (4K,) contiguous, or None.
        peephole: (3, K) contiguous, or None.
        lengths: (B,) contiguous integers, or None; samples with step >= lengths[b] keep c and h_prev, output zeros.
        h_prev: (B, K, H, W), the state before this step; required with lengths.
        output: (B, K, H, W), receives h (zeros where a sample has ended), or None.

    Raises:
        ValueError: a layout does not fit.
    """
    if c.numel() == 0:
        return
    _same_layout("c_next", c_next, c)
    for name, parameter in (("bias", bias), ("peephole", peephole), ("lengths", lengths)):
        _dense(name, parameter)
    if lengths is not None and h_prev is None:
        raise ValueError("h_prev must be given with lengths; got None")
    _, hidden, height, width = c.shape
    block_s, block_k = blocks(height * width, hidden)
    convlstm_gates_fwd_kernel[_grid(c, block_s, block_k)](
        gates,
        bias,
        peephole,
        c,
        h_prev if lengths is not None else None,
        lengths,
        h,
        c_next,
        output,
        step,
        height * width,
        *pixel_strides("gates", gates),
        *pixel_strides("c", c),
        *pixel_strides("h_prev", h_prev),
        *pixel_strides("h", h),
        *pixel_strides("output", output),
        K=hidden,
        BLOCK_S=block_s,
        BLOCK_K=block_k,
        num_warps=NUM_WARPS,
    )


def convlstm_gates_bwd(
    gates: Tensor,
    c: Tensor,
    c_next: Tensor,
    grad_c_next: Tensor,
    grad_gates: Tensor,
    grad_c: Tensor,
    *,
    grad_output: Tensor | None = None,
    grad_h: Tensor | None = None,
    grad_last: Tensor | None = None,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    lengths: Tensor | None = None,
    step: int = 0,
    sums: Tensor | None = None,
) -> None:
    """Launch convlstm_gates_bwd_kernel on the current device and stream.

    Args:
        gates: (B, 4K, H, W), the forward's pre-activations without bias.
        c, c_next: (B, K, H, W) float32, the states around the step, one layout.
        grad_c_next: (B, K, H, W) float32, c's strides.
        grad_gates: (B, 4K, H, W), written; the strides of gates, and may be gates itself.
        grad_c: (B, K, H, W) float32, written; c's strides, and may be grad_c_next itself.
        grad_output: (B, K, H, W), gradient of this step's output, or None.
        grad_h: (B, K, H, W), gradient of h from the following step, or None.
        grad_last: (B, K, H, W), gradient of the sequence's last h: it reaches sample b at step lengths[b] - 1. Only
            with lengths; without them it is the last step's grad_h.
        bias, peephole, lengths, step: as in the forward.
        sums: from empty_sums(c), added to, or None.

    Raises:
        ValueError: a layout does not fit.
    """
    if c.numel() == 0:
        return
    for name, state in (("c_next", c_next), ("grad_c_next", grad_c_next), ("grad_c", grad_c)):
        _same_layout(name, state, c)
    _same_layout("grad_gates", grad_gates, gates)
    for name, parameter in (("bias", bias), ("peephole", peephole), ("lengths", lengths), ("sums", sums)):
        _dense(name, parameter)
    if grad_last is not None and lengths is None:
        raise ValueError("grad_last must come with lengths; got lengths=None")
    _, hidden, height, width = c.shape
    block_s, block_k = blocks(height * width, hidden)
    convlstm_gates_bwd_kernel[_grid(c, block_s, block_k)](
        gates,
        bias,
        peephole,
        c,
        c_next,
        grad_c_next,
        grad_output,
        grad_h,
        grad_last,
        lengths,
        grad_gates,
        grad_c,
        sums,
        step,
        height * width,
        *pixel_strides("gates", gates),
        *pixel_strides("c", c),
        *pixel_strides("grad_output", grad_output),
        *pixel_strides("grad_h", grad_h),
        *pixel_strides("grad_last", grad_last),
        K=hidden,
        BLOCK_S=block_s,
        BLOCK_K=block_k,
        num_warps=NUM_WARPS,
    )
