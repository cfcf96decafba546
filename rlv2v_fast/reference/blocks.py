"""The residual blocks R, RPB and URB in plain PyTorch: what the fused operators must equal.

    R:   u = conv1(x), a = relu(bn1(u)), v = conv2(a), y = relu(bn2(v) + skip(x))
    RPB: z = bn3(maxpool(y))          URB: x' = upsample(x), y = R(x'), z = bn3(y)

Source: Figure 4 of Ma et al. (arXiv:2410.20657) names the blocks; docs/paper.md says what is our reading.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# From x (B, C, T, H, W) to its normalization: a module, or bn_reference with its other arguments given.
Normalize = Callable[[Tensor], Tensor]


def with_history(x: Tensor, frames: int, history: Tensor | None) -> Tensor:
    """x (B, C, T, H, W) with the `frames` frames before it put in front: history, or zeros where that is None."""
    if not frames:
        return x
    return F.pad(x, (0, 0, 0, 0, frames, 0)) if history is None else torch.cat([history, x], dim=2)


def causal_conv3d_reference(x: Tensor, weight: Tensor, bias: Tensor | None, history: Tensor | None = None) -> Tensor:
    """3D convolution whose output at time t sees no later input; "same" zero padding in space.

    Args:
        x: (B, C, T, H, W). weight: (O, C, kt, kh, kw), kh and kw odd. bias: (O,) or None.
        history: (B, C, kt-1, H, W), the frames before x; None is zeros.

    Returns:
        (B, O, T, H, W).
    """
    kt, kh, kw = weight.shape[2:]
    return F.conv3d(with_history(x, kt - 1, history), weight, bias, padding=(0, kh // 2, kw // 2))


def norm_relu_reference(x: Tensor, norm: Normalize) -> Tensor:
    """relu(norm(x)), x (B, C, T, H, W)."""
    return F.relu(norm(x))


def norm_add_relu_reference(x: Tensor, norm: Normalize, skip: Tensor) -> Tensor:
    """relu(norm(x) + skip), all (B, C, T, H, W)."""
    return F.relu(norm(x) + skip)


def pool_reference(x: Tensor) -> Tensor:
    """Spatial 1x2x2 max pooling; odd H and W are floored."""
    return F.max_pool3d(x, (1, 2, 2))


def upsample_reference(x: Tensor) -> Tensor:
    """Spatial nearest 2x upsampling of (B, C, T, H, W)."""
    return x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
