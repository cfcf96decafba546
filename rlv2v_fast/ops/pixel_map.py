"""pixel_map: a translation that sees each pixel alone, its whole way in one pass over memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.ops.backends import choose, cpp_refusal, is_autocasting
from rlv2v_fast.ops.convlstm_triton import on_device_of, triton_refusal
from rlv2v_fast.ops.register import Operator, Values
from rlv2v_fast.ops.schemas import LIBRARY
from rlv2v_fast.ops.transforms import is_transformed
from rlv2v_fast.reference.pixel_map import (
    PixelMapConstants,
    PixelMapParameters,
    emit_reference,
    located_reference,
    looked_up_reference,
    pixel_map_reference,
)
from rlv2v_fast.reference.precision import without_autocast

__all__ = [
    "PixelMapConstants",
    "PixelMapParameters",
    "call_pixel_map",
    "located_reference",
    "pixel_map",
    "without_autocast",
]

_MATRICES = ("project", "weight1", "weight2", "weight3", "head")


def pixel_map(
    frames: Tensor, parameters: PixelMapParameters, constants: PixelMapConstants, *, backend: str = "auto"
) -> Tensor:
    """The translation of frames by reference.pixel_map.pixel_map_reference.

    The fused operator keeps nothing but its arguments for the backward, which computes activations again, block by
    block. In float32 its sines are wrong by 2e-7 at most, up to phases of 8192 radians. Under autocast to bfloat16 it
    rounds the factors of the layers after the sines on a CPU that multiplies them (AVX512_BF16) where F and K are
    multiples of 32, and otherwise nothing; sums are float32.

    Args:
        frames: (N, C, H, W), of any strides, colours in [-1, 1].
        parameters: in the dtype of frames.
        backend: "auto" takes the C++ operator on a CPU and PyTorch elsewhere, "triton" the Triton kernels, which no
            GPU has measured yet.

    Returns:
        (N, C, H, W), in the dtype of frames. Twice differentiable, but for "auto" where it is not fused.

    Raises:
        ValueError: an argument does not fit; the message names it, the rule and the value.
        RuntimeError: an explicit backend cannot run the call; the message says why.
    """
    _check(frames, parameters)
    # It says nothing elsewhere: PyTorch is the intended way there, not a fallback.
    if backend == "auto" and frames.device.type != "cpu":
        chosen = "reference"
    else:
        refusals = {"cpp": lambda: why_not_fused(frames)}
        if backend == "triton":
            refusals["triton"] = lambda: _triton_refusal(frames, parameters)
        chosen = choose("pixel_map", backend, refusals)
    if chosen == "reference":
        return pixel_map_reference(frames, parameters, constants, _look_up_of(backend))
    return _OPERATORS[chosen](frames, *parameters, *constants, _rounds(frames))[0]


def call_pixel_map(
    predict: Callable[[Tensor], Tensor],
    frames: Tensor,
    table: Tensor | None,
    constants: PixelMapConstants,
    *,
    backend: str,
    reason: str,
) -> Tensor:
    """pixel_map by a network that must be called, because of `reason`.

    Args:
        predict: from frames to gains and emissions, (N, 2C, H, W).
        frames, table, constants, backend: as of pixel_map.
    """
    choose("pixel_map", backend, {"cpp": lambda: reason, "triton": lambda: reason})
    return emit_reference(frames, predict(frames), table, constants, _look_up_of(backend))


def _look_up_of(backend: str) -> Callable[[Tensor, Tensor], Tensor]:
    """What looks colours up without the fused operator."""
    return looked_up_reference if backend == "reference" or is_transformed() else _sampled


def _sampled(frames: Tensor, table: Tensor) -> Tensor:
    """looked_up_reference by PyTorch's own kernel, which knows no second derivative and no forward mode."""
    colours = frames.clamp(-1, 1).permute(0, 2, 3, 1).unsqueeze(1)
    tables = table.expand(len(frames), -1, -1, -1, -1)
    return F.grid_sample(tables, colours, padding_mode="border", align_corners=True).squeeze(2)


def why_not_fused(frames: Tensor) -> str | None:
    """Why the C++ operator cannot take such frames; None when it can."""
    if reason := cpp_refusal(frames):
        return reason
    if frames.device.type != "cpu":
        return f"the C++ kernel runs on cpu, not on {frames.device.type}"
    if frames.dtype not in (torch.float32, torch.float64):
        return f"the C++ kernel takes float32 and float64, not {frames.dtype}"
    return None


def _triton_refusal(frames: Tensor, p: PixelMapParameters) -> str | None:
    """Why the Triton kernels cannot take a call; None when they can."""
    if frames.dtype != torch.float32:
        return f"the Triton kernels take float32, not {frames.dtype}"
    if reason := triton_refusal(frames):
        return reason
    if p.table is not None and torch.are_deterministic_algorithms_enabled():
        return "the Triton kernels sum the table's gradient in no fixed order"
    from rlv2v_fast.kernels.pixel_map import why_not

    return why_not(frames.shape[1], p.project.shape[0], p.weight1.shape[0])


def _rounds(frames: Tensor) -> bool:
    """Whether autocast lets products round their factors to bfloat16."""
    if not is_autocasting(frames) or frames.dtype != torch.float32:
        return False
    return torch.get_autocast_dtype(frames.device.type) == torch.bfloat16


def _check(frames: Tensor, p: PixelMapParameters) -> None:
    if frames.dim() != 4:
        raise ValueError(f"frames must have shape (N, C, H, W); got {tuple(frames.shape)}")
    for name in _MATRICES:
        matrix = getattr(p, name)
        if matrix.dim() not in (2, 4) or matrix.shape[2:] not in ((), (1, 1)):
            raise ValueError(f"{name} must be a matrix or a 1x1 kernel; got shape {tuple(matrix.shape)}")
    channels = frames.shape[1]
    features, hidden = p.project.shape[0], p.weight1.shape[0]
    shapes = {
        "project": (features, channels + 2),
        "project_bias": (features,),
        "weight1": (hidden, channels + 2 + features),
        "bias1": (hidden,),
        "weight2": (hidden, hidden),
        "bias2": (hidden,),
        "weight3": (hidden, hidden),
        "bias3": (hidden,),
        "head": (2 * channels, hidden),
        "head_bias": (2 * channels,),
    }
    for name, shape in shapes.items():
        found = getattr(p, name).shape
        if (found[:2] if name in _MATRICES else found) != shape:
            raise ValueError(f"{name} must have shape {shape}; got {tuple(found)}")
    if p.table is not None:
        levels = p.table.shape[-1] if p.table.dim() else 0
        if channels != 3 or levels < 2 or p.table.shape != (3, levels, levels, levels):
            raise ValueError(
                f"table must be None or, for frames of 3 channels, have shape (3, L, L, L) with L >= 2; got "
                f"{tuple(p.table.shape)} for {channels} channels"
            )
    for name, tensor in p._asdict().items():
        if tensor is not None and tensor.device != frames.device:
            raise ValueError(f"{name} must be on the device of frames, {frames.device}; got {tensor.device}")
        if tensor is not None and tensor.dtype != frames.dtype:
            raise ValueError(f"{name} must have the dtype of frames, {frames.dtype}; got {tensor.dtype}")


def _fake(v: Values) -> tuple[Tensor]:
    return (v.frames.new_empty(v.frames.shape),)


def _fake_bwd(v: Values) -> tuple[Tensor, ...]:
    of_weights = [getattr(v, name).shape if v.need_project else (0,) for name in PixelMapParameters._fields[:-1]]
    shapes = [v.frames.shape if v.need_frames else (0,), *of_weights]
    shapes.append(v.table.shape if v.need_table and v.table is not None else (0,))
    return tuple(v.frames.new_empty(shape) for shape in shapes)


def _formula(v: Values) -> tuple[Tensor]:
    parameters = PixelMapParameters(*(getattr(v, name) for name in PixelMapParameters._fields))
    constants = PixelMapConstants(*(getattr(v, name) for name in PixelMapConstants._fields))
    return (pixel_map_reference(v.frames, parameters, constants),)


def _products(rounded: bool) -> str:
    """How the Triton kernels may round the factors of products: as PyTorch's convolutions on a GPU do."""
    return "bf16" if rounded else "tf32" if torch.backends.cudnn.allow_tf32 else "tf32x3"


def _triton_fwd(*arguments: Any) -> Tensor:
    from rlv2v_fast.kernels.pixel_map import PixelMapArguments, pixel_map_fwd

    *tensors, gain, speed, slope, clamp, rounded = arguments
    given = PixelMapArguments(*(None if t is None else t.contiguous() for t in tensors))
    y = torch.empty_like(given.frames)
    with on_device_of(y):
        pixel_map_fwd(given, y, gain=gain, speed=speed, slope=slope, clamp=clamp, products=_products(rounded))
    return y


def _triton_bwd(grad_y: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    from rlv2v_fast.kernels.pixel_map import PixelMapArguments, pixel_map_bwd

    *tensors, gain, speed, slope, clamp, rounded, need_frames, need_project, need_table = arguments
    given = PixelMapArguments(*(None if t is None else t.contiguous() for t in tensors))
    with on_device_of(grad_y):
        grads = pixel_map_bwd(
            grad_y.contiguous(),
            given,
            gain=gain,
            speed=speed,
            slope=slope,
            clamp=clamp,
            products=_products(rounded),
            need_frames=need_frames,
            need_parameters=need_project,
            need_table=need_table,
        )
    return tuple(given.frames.new_empty(0) if grad is None else grad for grad in grads)


# One implementation for every device: Triton chooses its own.
LIBRARY.impl("pixel_map_triton_fwd", _triton_fwd, "CompositeExplicitAutograd")
LIBRARY.impl("pixel_map_triton_bwd", _triton_bwd, "CompositeExplicitAutograd")

_OPERATORS = {
    backend: Operator(
        name,
        fake=_fake,
        fake_bwd=_fake_bwd,
        reference=_formula,
        # One pass gives the gradients of all matrices and biases.
        need={"need_project": PixelMapParameters._fields[:-1]},
    )
    for backend, name in (("cpp", "pixel_map"), ("triton", "pixel_map_triton"))
}
