"""A frame's translation pixel by pixel, in plain PyTorch: the specification of the fused operator pixel_map."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.reference.precision import accumulation_dtype, without_autocast


class PixelMapParameters(NamedTuple):
    """What pixel_map is trained in: C channels, F features, K hidden channels, and L levels of the table.

    project (F, C + 2) and project_bias (F,); weight1 (K, C + 2 + F), weight2 and weight3 (K, K), and bias1 to bias3
    (K,); head (2C, K) and head_bias (2C,); table (3, L, L, L), or None. Matrices may be 1x1 convolutions' weights.
    """

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


class PixelMapConstants(NamedTuple):
    """gain: added to the predicted gain. speed: factor of the table. slope: of the leaky ReLUs below zero.

    clamp: whether the result is clamped to [-1, 1].
    """

    gain: float
    speed: float
    slope: float
    clamp: bool


def pixel_map_reference(
    frames: Tensor,
    p: PixelMapParameters,
    constants: PixelMapConstants,
    look_up: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """y = gain(f) (x + 1) + emission(f) + speed table(x) - 1 for every pixel x of frames.

    f are sines of x and of the pixel's place, with x and the place themselves. Three hidden layers with leaky ReLUs and
    a linear one make gain and emission of them. Under autocast the layers after the sines are in its dtype, as 1x1
    convolutions are.

    Args:
        frames: (N, C, H, W), colours in [-1, 1]. C is 3 where there is a table.
        look_up: what computes looked_up_reference otherwise.

    Returns:
        (N, C, H, W), in the dtype of frames.
    """
    features = fourier_features_reference(frames, p.project, p.project_bias)
    for weight, bias in ((p.weight1, p.bias1), (p.weight2, p.bias2), (p.weight3, p.bias3)):
        features = F.leaky_relu(F.conv2d(features, _as_kernel(weight), bias), constants.slope)
    outputs = F.conv2d(features, _as_kernel(p.head), p.head_bias)
    return emit_reference(frames, outputs, p.table, constants, look_up or looked_up_reference)


def fourier_features_reference(frames: Tensor, project: Tensor, project_bias: Tensor | None) -> Tensor:
    """frames, their coordinates, and sines of a projection of both: (N, C + 2 + F, H, W)."""
    located = located_reference(frames)
    # In bfloat16 a phase of some tens of radians would be wrong by a tenth of a radian.
    with without_autocast(frames.device):
        waves = torch.sin(F.conv2d(located, _as_kernel(project), project_bias))
    return torch.cat([located, waves], dim=1)


def emit_reference(
    frames: Tensor,
    outputs: Tensor,
    table: Tensor | None,
    constants: PixelMapConstants,
    look_up: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The translation of frames by the head's outputs (N, 2C, H, W), gains before emissions.

    look_up: looked_up_reference, or what computes the same.
    """
    gain, emission = outputs.to(frames.dtype).chunk(2, dim=1)
    y = (frames + 1) * (gain + constants.gain) + emission - 1
    if table is not None:
        y = y + constants.speed * look_up(frames, table)
    return y.clamp(-1, 1) if constants.clamp else y


def located_reference(frames: Tensor) -> Tensor:
    """Frames and each pixel's vertical and horizontal position in [-1, 1]: (N, C + 2, H, W)."""
    batch, _, height, width = frames.shape
    exact = accumulation_dtype(frames.dtype)
    # An exporter would make a constant of the size that torch.linspace is given.
    y, x = (
        (torch.arange(size, device=frames.device, dtype=exact) * (2 / max(size - 1, 1)) - 1).to(frames.dtype)
        for size in (height, width)
    )
    planes = y[:, None].expand(batch, 1, height, width), x.expand(batch, 1, height, width)
    return torch.cat([frames, *planes], dim=1)


def _as_kernel(matrix: Tensor) -> Tensor:
    return matrix if matrix.dim() == 4 else matrix[:, :, None, None]


def looked_up_reference(frames: Tensor, table: Tensor) -> Tensor:
    """The entry of table (3, L, L, L) for each pixel's colour, with interpolation: (N, 3, H, W).

    Colours in [-1, 1] lie evenly on each axis; the axes are those of the channels 2, 1 and 0. Others are clamped.
    """
    levels = table.shape[-1]
    entries = table.flatten(1)
    places = (frames.clamp(-1, 1) + 1) * (0.5 * (levels - 1))
    # NaN has no place.
    low = places.detach().nan_to_num().floor().clamp(0, levels - 2).long()
    weights = places - low
    corner = low[:, 0] + levels * (low[:, 1] + levels * low[:, 2])

    def along(axis: int, at: Tensor) -> Tensor:
        """Interpolated along the first axes, up to this one: (3, N, H, W)."""
        if axis < 0:
            return entries[:, at]
        below = along(axis - 1, at)
        return below + weights[:, axis] * (along(axis - 1, at + levels**axis) - below)

    return along(2, corner).transpose(0, 1)
