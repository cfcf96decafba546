"""pixel_map in Triton: a translation pixel by pixel, forward and backward, activations never in memory.

A program takes BLOCK pixels through all layers. Its matrices are tiles of pixels by channels, padded to powers of two
with zeros: FP features, KP hidden channels, and 16 for the few numbers of a pixel itself (its channels, its place and a
one; or gains and emissions). The backward computes the activations again and keeps its sums over pixels in registers.

Bytes per pixel: 4 C read and 4 C written forward, twice that backward; FLOPs per pixel with C=3, F=64, K=32: 9.5 k
forward, 29 k backward. So it is bound by arithmetic: 1280x720 are 8.8 GFLOP and 22 MB forward, an estimated (not
measured) 40 us at 200 TFLOP/s of products in three TF32 parts. **No GPU has measured it yet.**
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 32
NUM_WARPS = 8
# Programs of the backward: two for each multiprocessor of a large GPU. Each has its own row of sums.
PROGRAMS = 264
# Numbers of a pixel itself are padded to the least depth of a product.
SMALL = 16
MAX_CHANNELS = 8
MAX_FEATURES = 64
MAX_HIDDEN = 64


@triton.jit
def _sine(x, half: tl.constexpr):
    """sin(x), or with half = 0.5 cos(x): as in csrc/common/vector_sine.h, right up to |x| = 8192."""
    m = tl.floor(x * 0.3183098861837907 - half + 0.5)
    n = m + half
    r = x - n * 3.140625
    r = r - n * 9.67502593994140625e-4
    r = r - n * 1.509957990978376432e-7
    z = r * r
    p = 2.6000548132287804e-6
    p = p * z - 1.9806614727713168e-4
    p = p * z + 8.333017118275166e-3
    p = p * z - 1.6666656732559204e-1
    y = r + r * (z * p)
    odd = m - 2.0 * tl.floor(m * 0.5)
    negative = odd > 0.5 if half == 0.0 else odd < 0.5
    return tl.where(negative, -y, y)


@triton.jit
def _dot(a, b, PRODUCTS: tl.constexpr):
    """a b with factors rounded to bfloat16 or TF32, or with TF32 in three parts, about as exact as float32."""
    if PRODUCTS == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    else:  # the compiler would read what follows in the other case, too
        return tl.dot(a, b, input_precision=PRODUCTS)


@triton.jit
def _matrix(pointer, rows, columns, row_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """pointer[rows, columns], zero beyond ROWS and COLUMNS."""
    mask = (rows < ROWS)[:, None] & (columns < COLUMNS)[None, :]
    return tl.load(pointer + rows[:, None] * row_stride + columns[None, :], mask, other=0.0)


@triton.jit
def _turned(pointer, rows, columns, column_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The same of a matrix that is stored transposed."""
    mask = (rows < ROWS)[:, None] & (columns < COLUMNS)[None, :]
    return tl.load(pointer + rows[:, None] + columns[None, :] * column_stride, mask, other=0.0)


@triton.jit
def _place(block, pixels, height, width, step_y, step_x, C: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets of a block's pixels in channel 0, which of them exist, and their coordinates in [-1, 1]."""
    m = (tl.zeros((BLOCK,), tl.int64) + block) * BLOCK + tl.arange(0, BLOCK)
    of_frame = height * width
    s = (m % of_frame).to(tl.int32)
    offset = (m // of_frame) * C * of_frame + s
    return offset, m < pixels, (s // width).to(tl.float32) * step_y - 1.0, (s % width).to(tl.float32) * step_x - 1.0


@triton.jit
def _located(frames_ptr, offset, exists, y, x, plane, C: tl.constexpr, SMALL: tl.constexpr):
    """(BLOCK, SMALL): channels, vertical and horizontal place, one, zeros. Pixels beyond the last are all zeros."""
    column = tl.arange(0, SMALL)[None, :]
    colours = tl.load(frames_ptr + offset[:, None] + column * plane, exists[:, None] & (column < C), other=0.0)
    located = tl.where(column == C, y[:, None], colours)
    located = tl.where(column == C + 1, x[:, None], located)
    located = tl.where(column == C + 2, 1.0, located)
    return tl.where(exists[:, None], located, 0.0)


@triton.jit
def _column(matrix, index: tl.constexpr, SMALL: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, SMALL)[None, :] == index, matrix, 0.0), axis=1)


@triton.jit
def _with_bias(pointer, bias_ptr, small, columns, column_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A matrix from ROWS numbers of a pixel to columns, stored transposed, and below it a bias for the pixel's one."""
    matrix = _turned(pointer, small, columns, column_stride, ROWS, COLUMNS)
    bias = tl.load(bias_ptr + columns, columns < COLUMNS, other=0.0)
    return tl.where(small[:, None] == ROWS, bias[None, :], matrix)


@triton.jit
def _activate(x, slope):
    return tl.where(x > 0, x, x * slope)


@triton.jit
def _hidden(
    waves,
    located,
    weight1_ptr,
    bias1_ptr,
    weight2_ptr,
    bias2_ptr,
    weight3_ptr,
    bias3_ptr,
    slope,
    C: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    FP: tl.constexpr,
    KP: tl.constexpr,
    SMALL: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    f, k, small = tl.arange(0, FP), tl.arange(0, KP), tl.arange(0, SMALL)
    inputs: tl.constexpr = C + 2 + F
    h1 = _dot(waves, _turned(weight1_ptr + C + 2, f, k, inputs, F, K), PRODUCTS)
    h1 = _activate(h1 + _dot(located, _with_bias(weight1_ptr, bias1_ptr, small, k, inputs, C + 2, K), PRODUCTS), slope)
    h2 = _dot(h1, _turned(weight2_ptr, k, k, K, K, K), PRODUCTS)
    h2 = _activate(h2 + tl.load(bias2_ptr + k, k < K, other=0.0)[None, :], slope)
    h3 = _dot(h2, _turned(weight3_ptr, k, k, K, K, K), PRODUCTS)
    return h1, h2, _activate(h3 + tl.load(bias3_ptr + k, k < K, other=0.0)[None, :], slope)


@triton.jit
def _outputs(
    h3,
    head_ptr,
    head_bias_ptr,
    C: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    SMALL: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """(BLOCK, SMALL): gains, emissions, zeros."""
    k, small = tl.arange(0, KP), tl.arange(0, SMALL)
    outputs = _dot(h3, _turned(head_ptr, k, small, K, K, 2 * C), PRODUCTS)
    return outputs + tl.load(head_bias_ptr + small, small < 2 * C, other=0.0)[None, :]


@triton.jit
def _level(colour, LEVELS: tl.constexpr):
    """The level below a colour on an axis of the table, and how far the colour is towards the next. NaN is at 0."""
    at = (colour + 1.0) * (0.5 * (LEVELS - 1))
    at = tl.where(at > 0, at, 0.0)
    at = tl.where(at < LEVELS - 1, at, LEVELS - 1.0)
    low = tl.minimum(at.to(tl.int32), LEVELS - 2)
    return low, at - low.to(tl.float32)


@triton.jit
def _weight(weight, far: tl.constexpr):
    return weight if far else 1.0 - weight


@triton.jit
def pixel_map_fwd_kernel(
    frames_ptr,
    project_ptr,
    project_bias_ptr,
    weight1_ptr,
    bias1_ptr,
    weight2_ptr,
    bias2_ptr,
    weight3_ptr,
    bias3_ptr,
    head_ptr,
    head_bias_ptr,
    table_ptr,
    y_ptr,
    pixels,
    height,
    width,
    step_y,
    step_x,
    gain,
    speed,
    slope,
    C: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    FP: tl.constexpr,
    KP: tl.constexpr,
    LEVELS: tl.constexpr,
    CLAMP: tl.constexpr,
    PRODUCTS: tl.constexpr,
    BLOCK: tl.constexpr,
    SMALL: tl.constexpr,
):
    """BLOCK pixels through all layers (module docstring)."""
    plane = height * width
    offset, exists, row, column = _place(tl.program_id(0), pixels, height, width, step_y, step_x, C, BLOCK)
    located = _located(frames_ptr, offset, exists, row, column, plane, C, SMALL)
    small, f = tl.arange(0, SMALL), tl.arange(0, FP)
    # Not rounded: phases have tens of radians.
    phases = _dot(located, _with_bias(project_ptr, project_bias_ptr, small, f, C + 2, C + 2, F), "tf32x3")
    _, _, h3 = _hidden(
        _sine(phases, 0.0), located, weight1_ptr, bias1_ptr, weight2_ptr, bias2_ptr, weight3_ptr, bias3_ptr, slope,
        C, F, K, FP, KP, SMALL, PRODUCTS,
    )  # fmt: skip
    outputs = _outputs(h3, head_ptr, head_bias_ptr, C, K, KP, SMALL, PRODUCTS)
    if table_ptr is not None:
        r, along_r = _level(_column(located, 0, SMALL), LEVELS)
        g, along_g = _level(_column(located, 1, SMALL), LEVELS)
        b, along_b = _level(_column(located, 2, SMALL), LEVELS)
        corner = r + LEVELS * (g + LEVELS * b)
    for c in tl.static_range(C):
        colour = _column(located, c, SMALL)
        y = (colour + 1.0) * (_column(outputs, c, SMALL) + gain) + _column(outputs, C + c, SMALL) - 1.0
        if table_ptr is not None:
            for i in tl.static_range(8):
                weight = _weight(along_r, i & 1) * _weight(along_g, i >> 1 & 1) * _weight(along_b, i >> 2)
                at = corner + (i & 1) + LEVELS * ((i >> 1 & 1) + LEVELS * (i >> 2))
                y += speed * weight * tl.load(table_ptr + c * LEVELS * LEVELS * LEVELS + at)
        if CLAMP:
            y = tl.where(y < -1.0, -1.0, y)
            y = tl.where(y > 1.0, 1.0, y)
        tl.store(y_ptr + offset + c * plane, y, exists)


@triton.jit
def pixel_map_bwd_kernel(
    grad_y_ptr,
    frames_ptr,
    project_ptr,
    project_bias_ptr,
    weight1_ptr,
    bias1_ptr,
    weight2_ptr,
    bias2_ptr,
    weight3_ptr,
    bias3_ptr,
    head_ptr,
    head_bias_ptr,
    table_ptr,
    grad_frames_ptr,
    grad_table_ptr,
    sums_ptr,
    pixels,
    height,
    width,
    step_y,
    step_x,
    gain,
    speed,
    slope,
    blocks,
    C: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    FP: tl.constexpr,
    KP: tl.constexpr,
    LEVELS: tl.constexpr,
    CLAMP: tl.constexpr,
    PRODUCTS: tl.constexpr,
    PROJECTED: tl.constexpr,
    BLOCK: tl.constexpr,
    SMALL: tl.constexpr,
):
    """Gradients of some blocks of pixels, and this program's share of those of the parameters.

    Without grad_frames_ptr, sums_ptr or grad_table_ptr that gradient is left out. The table's is summed by atomics.
    """
    plane = height * width
    f, k, small = tl.arange(0, FP), tl.arange(0, KP), tl.arange(0, SMALL)
    inputs: tl.constexpr = C + 2 + F
    sum_project = tl.zeros((SMALL, FP), tl.float32)
    sum_located = tl.zeros((SMALL, KP), tl.float32)
    sum_waves = tl.zeros((FP, KP), tl.float32)
    sum_weight2 = tl.zeros((KP, KP), tl.float32)
    sum_weight3 = tl.zeros((KP, KP), tl.float32)
    sum_bias2 = tl.zeros((KP,), tl.float32)
    sum_bias3 = tl.zeros((KP,), tl.float32)
    sum_head = tl.zeros((SMALL, KP), tl.float32)
    sum_head_bias = tl.zeros((SMALL,), tl.float32)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        offset, exists, row, column = _place(block, pixels, height, width, step_y, step_x, C, BLOCK)
        located = _located(frames_ptr, offset, exists, row, column, plane, C, SMALL)
        phases = _dot(located, _with_bias(project_ptr, project_bias_ptr, small, f, C + 2, C + 2, F), "tf32x3")
        waves = _sine(phases, 0.0)
        h1, h2, h3 = _hidden(
            waves, located, weight1_ptr, bias1_ptr, weight2_ptr, bias2_ptr, weight3_ptr, bias3_ptr, slope,
            C, F, K, FP, KP, SMALL, PRODUCTS,
        )  # fmt: skip
        outputs = _outputs(h3, head_ptr, head_bias_ptr, C, K, KP, SMALL, PRODUCTS)
        if table_ptr is not None:
            r, along_r = _level(_column(located, 0, SMALL), LEVELS)
            g, along_g = _level(_column(located, 1, SMALL), LEVELS)
            b, along_b = _level(_column(located, 2, SMALL), LEVELS)
            corner = r + LEVELS * (g + LEVELS * b)
        grad_outputs = tl.zeros((BLOCK, SMALL), tl.float32)
        grad_colours = tl.zeros((BLOCK, SMALL), tl.float32)
        for c in tl.static_range(C):
            colour = _column(located, c, SMALL)
            scale = _column(outputs, c, SMALL) + gain
            grad = tl.load(grad_y_ptr + offset + c * plane, exists, other=0.0)
            if CLAMP:
                y = (colour + 1.0) * scale + _column(outputs, C + c, SMALL) - 1.0
                if table_ptr is not None:
                    for i in tl.static_range(8):
                        weight = _weight(along_r, i & 1) * _weight(along_g, i >> 1 & 1) * _weight(along_b, i >> 2)
                        at = corner + (i & 1) + LEVELS * ((i >> 1 & 1) + LEVELS * (i >> 2))
                        y += speed * weight * tl.load(table_ptr + c * LEVELS * LEVELS * LEVELS + at)
                grad = tl.where((y < -1.0) | (y > 1.0), 0.0, grad)
            grad_outputs = tl.where(small[None, :] == c, (grad * (colour + 1.0))[:, None], grad_outputs)
            grad_outputs = tl.where(small[None, :] == C + c, grad[:, None], grad_outputs)
            grad_colours = tl.where(small[None, :] == c, (grad * scale)[:, None], grad_colours)

        grad3 = _dot(grad_outputs, _matrix(head_ptr, small, k, K, 2 * C, K), PRODUCTS)
        grad3 = tl.where(h3 > 0, grad3, grad3 * slope)
        grad2 = _dot(grad3, _matrix(weight3_ptr, k, k, K, K, K), PRODUCTS)
        grad2 = tl.where(h2 > 0, grad2, grad2 * slope)
        grad1 = _dot(grad2, _matrix(weight2_ptr, k, k, K, K, K), PRODUCTS)
        grad1 = tl.where(h1 > 0, grad1, grad1 * slope)
        grad_phases = _dot(grad1, _matrix(weight1_ptr + C + 2, k, f, inputs, K, F), PRODUCTS) * _sine(phases, 0.5)
        if sums_ptr is not None:
            sum_head += _dot(tl.trans(grad_outputs), h3, PRODUCTS)
            sum_head_bias += tl.sum(grad_outputs, axis=0)
            sum_weight3 += _dot(tl.trans(h2), grad3, PRODUCTS)
            sum_bias3 += tl.sum(grad3, axis=0)
            sum_weight2 += _dot(tl.trans(h1), grad2, PRODUCTS)
            sum_bias2 += tl.sum(grad2, axis=0)
            sum_waves += _dot(tl.trans(waves), grad1, PRODUCTS)
            sum_located += _dot(tl.trans(located), grad1, PRODUCTS)
            sum_project += _dot(tl.trans(located), grad_phases, PROJECTED)
        if table_ptr is not None:
            slope_r = tl.zeros((BLOCK,), tl.float32)
            slope_g = tl.zeros((BLOCK,), tl.float32)
            slope_b = tl.zeros((BLOCK,), tl.float32)
            for c in tl.static_range(C):
                grad = speed * _column(grad_outputs, C + c, SMALL)
                for i in tl.static_range(8):
                    at = corner + (i & 1) + LEVELS * ((i >> 1 & 1) + LEVELS * (i >> 2))
                    at += c * LEVELS * LEVELS * LEVELS
                    by_r, by_g, by_b = _weight(along_r, i & 1), _weight(along_g, i >> 1 & 1), _weight(along_b, i >> 2)
                    if grad_table_ptr is not None:
                        tl.atomic_add(grad_table_ptr + at, grad * (by_r * by_g * by_b), exists)
                    if grad_frames_ptr is not None:
                        entry = grad * tl.load(table_ptr + at)
                        slope_r += entry * (by_g * by_b) * (1.0 if i & 1 else -1.0)
                        slope_g += entry * (by_r * by_b) * (1.0 if i >> 1 & 1 else -1.0)
                        slope_b += entry * (by_r * by_g) * (1.0 if i >> 2 else -1.0)
            if grad_frames_ptr is not None:
                slopes = tl.where(small[None, :] == 0, slope_r[:, None], slope_g[:, None])
                slopes = tl.where(small[None, :] == 2, slope_b[:, None], slopes)
                inside = (located > -1.0) & (located < 1.0) & (small[None, :] < 3)
                grad_colours += tl.where(inside, slopes * (0.5 * (LEVELS - 1)), 0.0)
        if grad_frames_ptr is not None:
            grad_colours += _dot(grad1, _matrix(weight1_ptr, k, small, inputs, K, C), PRODUCTS)
            grad_colours += _dot(grad_phases, _matrix(project_ptr, f, small, C + 2, F, C), PROJECTED)
            at = grad_frames_ptr + offset[:, None] + small[None, :] * plane
            tl.store(at, grad_colours, exists[:, None] & (small[None, :] < C))

    if sums_ptr is not None:
        # In the order of SUMS.
        to = sums_ptr + tl.program_id(0).to(tl.int64) * (
            SMALL * FP + 2 * SMALL * KP + FP * KP + 2 * KP * KP + 2 * KP + SMALL
        )
        tl.store(to + small[:, None] * FP + f[None, :], sum_project)
        to += SMALL * FP
        tl.store(to + small[:, None] * KP + k[None, :], sum_located)
        to += SMALL * KP
        tl.store(to + f[:, None] * KP + k[None, :], sum_waves)
        to += FP * KP
        tl.store(to + k[:, None] * KP + k[None, :], sum_weight2)
        to += KP * KP
        tl.store(to + k, sum_bias2)
        to += KP
        tl.store(to + k[:, None] * KP + k[None, :], sum_weight3)
        to += KP * KP
        tl.store(to + k, sum_bias3)
        to += KP
        tl.store(to + small[:, None] * KP + k[None, :], sum_head)
        to += SMALL * KP
        tl.store(to + small, sum_head_bias)


class PixelMapArguments(NamedTuple):
    """frames (N, C, H, W) and the parameters of reference/pixel_map.py, contiguous and float32."""

    frames: Tensor
    project: Tensor
    project_bias: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    weight3: Tensor
    bias3: Tensor
    head: Tensor
    head_bias: Tensor
    table: Tensor | None


def why_not(channels: int, features: int, hidden: int) -> str | None:
    """Why the kernels cannot take such sizes; None when they can."""
    for name, size, most in (
        ("channels", channels, MAX_CHANNELS),
        ("features", features, MAX_FEATURES),
        ("hidden channels", hidden, MAX_HIDDEN),
    ):
        if size > most:
            return f"the Triton kernels take at most {most} {name}, not {size}"
    return None


def constants(a: PixelMapArguments, *, clamp: bool, products: str) -> dict[str, object]:
    """The constexpr arguments of both kernels."""
    features, hidden = a.project.shape[0], a.weight1.shape[0]
    return {
        "C": a.frames.shape[1],
        "F": features,
        "K": hidden,
        "FP": max(SMALL, triton.next_power_of_2(features)),
        "KP": max(SMALL, triton.next_power_of_2(hidden)),
        "LEVELS": 2 if a.table is None else a.table.shape[-1],
        "CLAMP": clamp,
        "PRODUCTS": products,
        "BLOCK": BLOCK,
        "SMALL": SMALL,
    }


def _image(frames: Tensor) -> tuple[int, int, float, float]:
    """Height, width, and the steps of coordinates."""
    height, width = frames.shape[2:]
    return height, width, 2 / max(height - 1, 1), 2 / max(width - 1, 1)


def pixel_map_fwd(
    a: PixelMapArguments, y: Tensor, *, gain: float, speed: float, slope: float, clamp: bool, products: str
) -> None:
    """Launch pixel_map_fwd_kernel on the current device and stream: y (N, C, H, W), contiguous, is written."""
    pixels = a.frames.shape[0] * a.frames.shape[2] * a.frames.shape[3]
    if y.numel() == 0:
        return
    pixel_map_fwd_kernel[(triton.cdiv(pixels, BLOCK),)](
        *a, y, pixels, *_image(a.frames), gain, speed, slope, num_warps=NUM_WARPS,
        **constants(a, clamp=clamp, products=products),
    )  # fmt: skip


def pixel_map_bwd(
    grad_y: Tensor,
    a: PixelMapArguments,
    *,
    gain: float,
    speed: float,
    slope: float,
    clamp: bool,
    products: str,
    need_frames: bool,
    need_parameters: bool,
    need_table: bool,
) -> list[Tensor | None]:
    """Launch pixel_map_bwd_kernel: the gradients of a, those that are not needed None. grad_y is contiguous."""
    frames, options = a.frames, constants(a, clamp=clamp, products=products)
    pixels = frames.shape[0] * frames.shape[2] * frames.shape[3]
    blocks = triton.cdiv(pixels, BLOCK)
    programs = min(blocks, PROGRAMS)
    sizes = _sums(int(options["FP"]), int(options["KP"]))  # type: ignore[call-overload]
    length = sum(torch.Size(size).numel() for size in sizes.values())
    grad_frames = torch.empty_like(frames) if need_frames else None
    grad_table = torch.zeros_like(a.table) if need_table and a.table is not None else None
    sums = frames.new_empty(programs, length) if need_parameters else None
    # Registers hold either the sums or what the gradients of single pixels need.
    for of_pixels, of_table, of_parameters in ((grad_frames, grad_table, None), (None, None, sums)):
        if pixels and not (of_pixels is of_table is of_parameters is None):
            pixel_map_bwd_kernel[(programs,)](
                grad_y, *a, of_pixels, of_table, of_parameters, pixels, *_image(frames), gain, speed, slope, blocks,
                PROJECTED="tf32x3" if products == "tf32x3" else "tf32", num_warps=NUM_WARPS, **options,
            )  # fmt: skip
    if sums is None:
        return [grad_frames, *[None] * 10, grad_table]
    parts = dict(zip(sizes, sums.sum(0).split([torch.Size(size).numel() for size in sizes.values()]), strict=True))
    s = {name: part.view(sizes[name]) for name, part in parts.items()}
    located, features, hidden = frames.shape[1] + 2, a.project.shape[0], a.weight1.shape[0]
    of_weight1 = torch.cat([s["located"][:located], s["waves"][:features]])[:, :hidden]
    outputs = 2 * frames.shape[1]
    found = (
        s["project"][:located, :features].t(),
        s["project"][located, :features],
        of_weight1.t(),
        s["located"][located, :hidden],
        s["weight2"][:hidden, :hidden].t(),
        s["bias2"][:hidden],
        s["weight3"][:hidden, :hidden].t(),
        s["bias3"][:hidden],
        s["head"][:outputs, :hidden],
        s["head_bias"][:outputs],
    )
    # An operator returns no views of one tensor.
    shaped = [
        grad.clone(memory_format=torch.contiguous_format).view(parameter.shape)
        for grad, parameter in zip(found, a[1:-1], strict=True)
    ]
    return [grad_frames, *shaped, grad_table]


def _sums(features: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a program's sums, in order."""
    return {
        "project": (SMALL, features),
        "located": (SMALL, hidden),
        "waves": (features, hidden),
        "weight2": (hidden, hidden),
        "bias2": (hidden,),
        "weight3": (hidden, hidden),
        "bias3": (hidden,),
        "head": (SMALL, hidden),
        "head_bias": (SMALL,),
    }
