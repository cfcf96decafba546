"""Videos in and out, training domains, and a synthetic task."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlv2v_fast.data.clips import Clip, Domain, find_videos
    from rlv2v_fast.data.info import VideoInfo
    from rlv2v_fast.data.synthetic import figure1_clips, figure1_pair, write_figure1
    from rlv2v_fast.data.timing import TimedFrame
    from rlv2v_fast.data.video import probe, read_frames, read_timed, to_tensor, to_uint8
    from rlv2v_fast.data.writer import VideoWriter

__all__ = [
    "Clip",
    "Domain",
    "TimedFrame",
    "VideoInfo",
    "VideoWriter",
    "figure1_clips",
    "figure1_pair",
    "find_videos",
    "probe",
    "read_frames",
    "read_timed",
    "to_tensor",
    "to_uint8",
    "write_figure1",
]

_HOMES = {
    **dict.fromkeys(("Clip", "Domain", "find_videos"), "clips"),
    **dict.fromkeys(("figure1_clips", "figure1_pair", "write_figure1"), "synthetic"),
    **dict.fromkeys(("probe", "read_frames", "read_timed", "to_tensor", "to_uint8"), "video"),
    "TimedFrame": "timing",
    "VideoInfo": "info",
    "VideoWriter": "writer",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: processes that decode videos start faster without PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rlv2v_fast.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rlv2v_fast.data.{_HOMES[name]}"), name)
