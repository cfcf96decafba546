"""causal_conv3d: a 3D convolution that sees no later frame, by the fastest route PyTorch has for the shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.reference.blocks import with_history


def causal_conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, history: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """3D convolution that sees no later frame; cuDNN's or oneDNN's, after padding in time on the left only.

    Args:
        x: (B, C, T, H, W). weight: (O, C, kt, kh, kw), kh and kw odd. bias: (O,) or None.
        history: (B, C, kt-1, H, W), the frames before x; None is zeros.

    Returns:
        (B, O, T, H, W), and the history that the frames after x need (None when kt is 1).

    Raises:
        ValueError: x is not five-dimensional, its channels are not those of weight, or history does not fit.
    """
    check_causal_conv3d(x, weight, history)
    before = weight.shape[2] - 1
    padded = with_history(x, before, history)
    return _conv3d(padded, weight, bias), padded[:, :, padded.shape[2] - before :] if before else None


def call_causal_conv3d(
    convolve: Callable[[Tensor], Tensor], before: int, x: Tensor, history: Tensor | None
) -> tuple[Tensor, Tensor]:
    """causal_conv3d by a module that must be called, and knows no history.

    Args:
        convolve: from (B, C, T, H, W) to its causal convolution with zeros before, or what a user put in its place.
        before: frames before x that the convolution sees, at least 1.
        x: (B, C, T, H, W). history: (B, C, before, H, W); None is zeros.

    Returns:
        What convolve makes of x after its history, and the history of the frames after x.
    """
    padded = with_history(x, before, history)
    y = convolve(x) if history is None else convolve(padded)[:, :, before:]
    return y, padded[:, :, padded.shape[2] - before :]


def check_causal_conv3d(x: Tensor, weight: Tensor, history: Tensor | None) -> None:
    """ValueError unless x (B, C, T, H, W) and its history fit the kernel (O, C, kt, kh, kw)."""
    if x.dim() != 5 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x must have shape (B, {weight.shape[1]}, T, H, W); got {tuple(x.shape)}")
    wanted = (x.shape[0], x.shape[1], weight.shape[2] - 1, x.shape[3], x.shape[4])
    if history is not None and history.shape != wanted:
        raise ValueError(f"history must have shape {wanted}; got {tuple(history.shape)}")


def _conv3d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv3d, padded in space only, by the fastest route PyTorch has for the shape."""
    _, _, kt, kh, kw = weight.shape
    if (kt, kh, kw) == (1, 1, 1):
        # A pointwise convolution does not care where the frames are: stack them into one tall image.
        return F.conv2d(x.flatten(2, 3), weight[:, :, 0], bias).unflatten(2, x.shape[2:4])
    # PyTorch's CPU dispatcher leaves oneDNN out for one float32 clip and runs an im2col kernel, measured 5 to 26 times
    # slower (docs/performance.md): give it a batch of two, or a 2D convolution.
    if x.device.type != "cpu" or x.shape[0] != 1 or x.dtype != torch.float32:
        return F.conv3d(x, weight, bias, padding=(0, kh // 2, kw // 2))
    frames = x.shape[2] - kt + 1
    if frames == 1:
        y = F.conv2d(x.flatten(1, 2), weight.flatten(1, 2), bias, padding=(kh // 2, kw // 2))
        return y.unsqueeze(2)
    half = (frames + 1) // 2
    halves = torch.cat([x[:, :, : half + kt - 1], x[:, :, frames - half :]])
    first, second = F.conv3d(halves, weight, bias, padding=(0, kh // 2, kw // 2)).chunk(2)
    # With an odd number of frames both halves hold the middle one.
    return torch.cat([first, second[:, :, 2 * half - frames :]], dim=2)
