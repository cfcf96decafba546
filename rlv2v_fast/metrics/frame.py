"""How close single frames are to reference frames."""

from __future__ import annotations

import torch
from torch.nn import functional

from rlv2v_fast.errors import InputError

_DATA_RANGE = 2.0  # of values in [-1, 1]
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * _DATA_RANGE) ** 2, (0.03 * _DATA_RANGE) ** 2


def psnr(prediction: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each frame in dB; higher is closer, infinite where frames are equal.

    Args:
        prediction, reference: floating point ``(..., C, H, W)`` in [-1, 1].

    Returns:
        float64 of shape ``(...)``.

    Raises:
        InputError: the tensors differ in shape or are not floating point of three or more dimensions.
    """
    prediction, reference = _checked(prediction, reference)
    error = (prediction - reference).square().mean(dim=(-3, -2, -1))
    return 10 * torch.log10(_DATA_RANGE**2 / error)


def ssim(prediction: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each frame (Wang et al., 2004), in [-1, 1], 1 where frames are equal.

    The window is an 11x11 Gaussian with sigma 1.5 that stays inside the frame, K1 = 0.01, K2 = 0.03. Channels are
    scored apart and averaged.

    Args:
        prediction, reference: floating point ``(..., C, H, W)`` in [-1, 1], at least 11x11.

    Returns:
        float64 of shape ``(...)``.

    Raises:
        InputError: the tensors differ in shape, are not floating point of three or more dimensions, or are smaller
            than the window.
    """
    prediction, reference = _checked(prediction, reference)
    if min(prediction.shape[-2:]) < _WINDOW:
        height, width = prediction.shape[-2:]
        raise InputError(f"frames must be at least {_WINDOW}x{_WINDOW} for ssim, got {width}x{height}")
    # The luminance term is defined for intensities that start at zero.
    x, y = prediction + 1, reference + 1
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return (luminance * structure).mean(dim=(-3, -2, -1))


def _checked(prediction: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if prediction.shape != reference.shape:
        shapes = f"{tuple(prediction.shape)} and {tuple(reference.shape)}"
        raise InputError(f"prediction and reference must have one shape, got {shapes}")
    for name, value in (("prediction", prediction), ("reference", reference)):
        if not value.is_floating_point() or value.dim() < 3:
            shape = tuple(value.shape)
            raise InputError(f"{name} must be floating point of shape (..., C, H, W), got {value.dtype} {shape}")
    return prediction.detach().double(), reference.detach().double()


def _blur(frames: torch.Tensor) -> torch.Tensor:
    """Gaussian mean around every pixel whose window fits, ``(..., H, W)`` to ``(..., H - 10, W - 10)``."""
    offsets = torch.arange(_WINDOW, dtype=frames.dtype, device=frames.device) - _WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    weights /= weights.sum()
    flat = frames.reshape(-1, 1, *frames.shape[-2:])
    flat = functional.conv2d(flat, weights.view(1, 1, -1, 1))
    flat = functional.conv2d(flat, weights.view(1, 1, 1, -1))
    return flat.reshape(*frames.shape[:-2], *flat.shape[-2:])
