"""Optical flow between the frames of a clip, by OpenCV."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlv2v_fast.data.video import to_uint8

# (T, 3, H, W) in [-1, 1] to flow (T - 1, 2, H, W) and visibility (T - 1, H, W), as metrics.warping_error takes them.
Motion = Callable[[Tensor], tuple[Tensor, Tensor]]
# Frames are enlarged by this first: small ones have too few pixels for the coarsest level of the search.
_ENLARGED = 4
# A point is visible in both frames if the flow there and back ends this near to it, in pixels of the clip.
_TOLERANCE = 0.5


def load_motion() -> Motion | None:
    """A function for optical flow and visibility, by dense inverse search (Kroeger et al. 2016); None without OpenCV.

    It keeps its results, because every row scores the same clips.
    """
    try:
        # Imported so that type checks give the same result with and without OpenCV.
        cv2: Any = importlib.import_module("cv2")
    except ImportError:
        return None
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    @functools.cache
    def motion(clip: Tensor) -> tuple[Tensor, Tensor]:
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in to_uint8(clip)]
        large = [cv2.resize(f, None, fx=_ENLARGED, fy=_ENLARGED, interpolation=cv2.INTER_CUBIC) for f in gray]
        flows, visible = [], []
        for before, after in itertools.pairwise(large):
            back, forth = search.calc(after, before, None), search.calc(before, after, None)
            y, x = np.mgrid[: after.shape[0], : after.shape[1]].astype(np.float32)
            returned = back + cv2.remap(forth, x + back[..., 0], y + back[..., 1], cv2.INTER_LINEAR)
            # The flow of a pixel is the mean over its enlarged pixels.
            flow = _reduced(back) / _ENLARGED
            inside = _inside(flow)
            error = np.linalg.norm(_reduced(returned), axis=-1) / _ENLARGED
            flows.append(flow.transpose(2, 0, 1))
            visible.append(inside & (error < _TOLERANCE))
        return torch.from_numpy(np.stack(flows)), torch.from_numpy(np.stack(visible))

    return motion


def _reduced(field: np.ndarray) -> np.ndarray:
    """A field (H, W, 2) from (4 H, 4 W, 2), by means over the enlarged pixels."""
    height, width = (side // _ENLARGED for side in field.shape[:2])
    return field.reshape(height, _ENLARGED, width, _ENLARGED, 2).mean(axis=(1, 3))


def _inside(flow: np.ndarray) -> np.ndarray:
    """Whether each point of the later frame was inside the earlier one, (H, W)."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width]
    there_x, there_y = x + flow[..., 0], y + flow[..., 1]
    return (there_x >= 0) & (there_x <= width - 1) & (there_y >= 0) & (there_y <= height - 1)
