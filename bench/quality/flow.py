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
# Small frames have too few pixels for the coarsest level of the search: they are enlarged by this first.
_ENLARGED = 4
# A point is visible in both frames if following the flow there and back ends this near, in pixels of the clip.
_TOLERANCE = 0.5


def load_motion() -> Motion | None:
    """Dense inverse search flow (Kroeger et al. 2016), there and back; None without OpenCV.

    It is kept for each clip asked about: every row scores the same ones.
    """
    try:
        # Unchecked, so that types are the same with and without it.
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
            # The middle of each enlarged pixel stands for it.
            found = _reduced(back) / _ENLARGED
            inside = _inside(found)
            error = np.linalg.norm(_reduced(returned), axis=-1) / _ENLARGED
            flows.append(found.transpose(2, 0, 1))
            visible.append(inside & (error < _TOLERANCE))
        return torch.from_numpy(np.stack(flows)), torch.from_numpy(np.stack(visible))

    return motion


def _reduced(field: np.ndarray) -> np.ndarray:
    """(H, W, 2) from (4 H, 4 W, 2): means over the enlarged pixels."""
    height, width = (side // _ENLARGED for side in field.shape[:2])
    return field.reshape(height, _ENLARGED, width, _ENLARGED, 2).mean(axis=(1, 3))


def _inside(flow: np.ndarray) -> np.ndarray:
    """(H, W): whether a point of the later frame was within the earlier one."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width]
    there_x, there_y = x + flow[..., 0], y + flow[..., 1]
    return (there_x >= 0) & (there_x <= width - 1) & (there_y >= 0) & (there_y <= height - 1)
