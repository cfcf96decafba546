"""FLOPs of the fused operators as torch.utils.flop_counter counts them: those of their references.

Fewer multiplications, as by Winograd's algorithm, and gates computed again to save memory do not change a count.
Normalizations and gates count nothing here, as they do in PyTorch.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from rlv2v_fast.ops.register import Named
from rlv2v_fast.ops.schemas import NAMESPACE, SCHEMAS
from rlv2v_fast.waiting import after_import


def _convolution(shapes: Named) -> int:
    """FLOPs of the convolution of one step, and of either of its gradients."""
    batch, _, _, height, width = shapes["x"]
    return 2 * batch * height * width * prod(shapes["weight"])


def _convlstm_fwd(shapes: Named) -> int:
    return shapes["x"][1] * _convolution(shapes)


def _convlstm_bwd(shapes: Named) -> int:
    steps = shapes["x"][1]
    # What the first convolution reads has a gradient only where x or h0 has one; what a later one reads always has.
    of_inputs = steps if shapes["need_x"] or shapes["need_h0"] else steps - 1
    of_weight = steps if shapes["need_weight"] else 0
    return (of_inputs + of_weight) * _convolution(shapes)


def _conv3d_fwd(shapes: Named) -> int:
    batch, _, frames, height, width = shapes["x"]
    pixels = height * width * (4 if shapes["upsample"] else 1)
    return 2 * batch * frames * pixels * prod(shapes["weight"])


def _conv3d_bwd(shapes: Named) -> int:
    of_inputs = 1 if shapes["need_x"] or shapes["need_history"] else 0
    return (of_inputs + (1 if shapes["need_weight"] else 0)) * _conv3d_fwd(shapes)


_PIXEL_MAP_LAYERS = ("weight1", "weight2", "weight3", "head")


def _pixel_map_fwd(shapes: Named, layers: tuple[str, ...] = ("project", *_PIXEL_MAP_LAYERS)) -> int:
    """FLOPs of these layers as 1x1 convolutions."""
    batch, _, height, width = shapes["frames"]
    return 2 * batch * height * width * sum(prod(shapes[layer]) for layer in layers)


def _pixel_map_bwd(shapes: Named) -> int:
    by_weights = _pixel_map_fwd(shapes) if shapes["need_project"] else 0
    # The gradient comes to the projection through all other layers, and through it to the frames alone.
    reached = _PIXEL_MAP_LAYERS if shapes["need_project"] else ()
    through = ("project", *_PIXEL_MAP_LAYERS) if shapes["need_frames"] else reached
    return by_weights + _pixel_map_fwd(shapes, through)


# By operator: FLOPs from its arguments by name, a tensor's being its shape.
FORMULAS = {
    "causal_conv3d_fwd": _conv3d_fwd,
    "causal_conv3d_bwd": _conv3d_bwd,
    "convlstm_fwd": _convlstm_fwd,
    "convlstm_bwd": _convlstm_bwd,
    "convlstm_triton_fwd": _convlstm_fwd,
    "convlstm_triton_bwd": _convlstm_bwd,
    "pixel_map_fwd": _pixel_map_fwd,
    "pixel_map_bwd": _pixel_map_bwd,
}


def _register() -> None:
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    for name in FORMULAS:
        operator = getattr(getattr(torch.ops, NAMESPACE), name)
        if operator not in flop_registry:
            register_flop_formula(operator)(_formula(name))


def _formula(name: str) -> Any:
    def count(*arguments: Any, out_shape: Any = None, **named: Any) -> int:
        return FORMULAS[name](dict(zip(SCHEMAS[name].arguments, arguments, strict=False)) | named)

    return count


# A counter copies the formulas that there are when it is made. Importing it here would import Triton.
after_import("torch.utils.flop_counter", _register)
