"""The recurrent loss L_rr, of a predictor's forecasts of the next frames in its own domain."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

DISTANCES = ("l1", "l2")


def distance(a: Tensor, b: Tensor, kind: str = "l1") -> Tensor:
    """The mean distance of two tensors, a scalar: |a - b| ("l1") or (a - b)^2 ("l2")."""
    if kind == "l1":
        return F.l1_loss(a, b)
    if kind == "l2":
        return F.mse_loss(a, b)
    raise ValueError(f"distance must be one of {', '.join(DISTANCES)}; got {kind!r}")


def recurrent_loss(video: Tensor, forecast: Tensor, kind: str = "l1") -> Tensor:
    """The loss of a predictor's forecasts: L_rr = mean_t d(x_{t+1}, P(x_1..t)).

    Args:
        video: (B, T, C, H, W), T >= 2.
        forecast: (B, T or T-1, C, H, W); frame t forecasts frame t+1 of video; frame T is not used.
        kind: "l1" (the authors') or "l2".
    """
    frames = video.shape[1]
    if frames < 2 or forecast.shape[1] not in (frames, frames - 1):
        raise ValueError(f"forecast must hold T or T-1 frames for a video of T={frames} >= 2; got {forecast.shape[1]}")
    return distance(forecast[:, : frames - 1], video[:, 1:], kind)
