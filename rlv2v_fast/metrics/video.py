"""How close the motion of a video is to that of a reference."""

from __future__ import annotations

import torch

from rlv2v_fast.errors import InputError


def temporal_difference(video: torch.Tensor) -> torch.Tensor:
    """Mean absolute change between consecutive frames, 0 for a still video.

    Args:
        video: floating point ``(T, C, H, W)`` or ``(B, T, C, H, W)``, at least two frames long.

    Returns:
        float64 scalar, or ``(B,)`` for a batch, in the units of ``video``.

    Raises:
        InputError: the tensor is not floating point of such a shape.
    """
    return _changes("video", video).abs().mean(dim=(-4, -3, -2, -1))


def temporal_error(prediction: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the changes between consecutive frames, 0 where both change alike.

    A constant difference in colour costs nothing; flicker that the reference does not have does.

    Args:
        prediction, reference: floating point ``(T, C, H, W)`` or ``(B, T, C, H, W)``, at least two frames long.

    Returns:
        float64 scalar, or ``(B,)`` for a batch, in the units of the videos.

    Raises:
        InputError: the tensors differ in shape or are not floating point of such a shape.
    """
    if prediction.shape != reference.shape:
        shapes = f"{tuple(prediction.shape)} and {tuple(reference.shape)}"
        raise InputError(f"prediction and reference must have one shape, got {shapes}")
    changes = _changes("prediction", prediction) - _changes("reference", reference)
    return changes.abs().mean(dim=(-4, -3, -2, -1))


def _changes(name: str, video: torch.Tensor) -> torch.Tensor:
    if not video.is_floating_point() or video.dim() not in (4, 5):
        shape = tuple(video.shape)
        raise InputError(f"{name} must be floating point (T, C, H, W) or (B, T, C, H, W), got {video.dtype} {shape}")
    if video.shape[-4] < 2:
        raise InputError(f"{name} must have at least 2 frames, got {video.shape[-4]}")
    return video.detach().double().diff(dim=-4)
