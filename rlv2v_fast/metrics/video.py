"""Scores of a video's motion, against a reference or against its optical flow."""

from __future__ import annotations

import torch
import torch.nn.functional as F

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
    """The mean absolute difference of the changes from frame to frame, 0 where both videos change alike.

    A constant difference in colour costs nothing. Flicker that the reference does not have costs.

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


def warping_error(video: torch.Tensor, flow: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """The mean squared difference between each frame and the previous one moved by the optical flow, where visible.

    Flicker costs, and so does a texture that does not move with its object. A still video of a still scene has 0.

    Args:
        video: floating point ``(T, C, H, W)`` in [-1, 1], T >= 2.
        flow: floating point ``(T - 1, 2, H, W)``: the point (x, y) of frame t + 1 was at (x + u, y + v) in frame t,
            (u, v) in pixels.
        visible: bool ``(T - 1, H, W)``, points of frame t + 1 that frame t shows too.

    Returns:
        float64 scalar, the mean over visible points and channels of squares of differences of colours in [0, 1]; NaN
        where no point is visible.

    Raises:
        InputError: a shape or a type does not fit.

    Source: the E_warp of Lai et al. 2018, "Learning Blind Video Temporal Consistency".
    """
    before, after = _changed_frames(video)
    count, _, height, width = before.shape
    if flow.shape != (count, 2, height, width) or not flow.is_floating_point():
        raise InputError(
            f"flow must be floating point {(count, 2, height, width)}, got {flow.dtype} {tuple(flow.shape)}"
        )
    if visible.shape != (count, height, width) or visible.dtype != torch.bool:
        raise InputError(f"visible must be bool {(count, height, width)}, got {visible.dtype} {tuple(visible.shape)}")
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    points = torch.stack([x, y], dim=-1).to(flow.device) + flow.double().permute(0, 2, 3, 1)
    # In grid_sample's coordinates, the centres of the outermost pixels are at -1 and 1.
    span = points.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    warped = F.grid_sample(before, 2 * points / span - 1, padding_mode="border", align_corners=True)
    return ((after - warped) / 2).square().mean(1)[visible].mean()


def _changed_frames(video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All frames but the last, and all but the first, in double precision."""
    if not video.is_floating_point() or video.dim() != 4 or video.shape[0] < 2:
        raise InputError(f"video must be floating point (T >= 2, C, H, W), got {video.dtype} {tuple(video.shape)}")
    frames = video.detach().double()
    return frames[:-1], frames[1:]


def _changes(name: str, video: torch.Tensor) -> torch.Tensor:
    if not video.is_floating_point() or video.dim() not in (4, 5):
        shape = tuple(video.shape)
        raise InputError(f"{name} must be floating point (T, C, H, W) or (B, T, C, H, W), got {video.dtype} {shape}")
    if video.shape[-4] < 2:
        raise InputError(f"{name} must have at least 2 frames, got {video.shape[-4]}")
    return video.detach().double().diff(dim=-4)
