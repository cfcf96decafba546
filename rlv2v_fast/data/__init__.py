"""Videos in and out, training domains, and a synthetic task."""

from rlv2v_fast.data.clips import Clip, Domain, find_videos
from rlv2v_fast.data.synthetic import figure1_clips, figure1_pair, write_figure1
from rlv2v_fast.data.video import VideoInfo, probe, read_frames, to_tensor, to_uint8
from rlv2v_fast.data.writer import VideoWriter

__all__ = [
    "Clip",
    "Domain",
    "VideoInfo",
    "VideoWriter",
    "figure1_clips",
    "figure1_pair",
    "find_videos",
    "probe",
    "read_frames",
    "to_tensor",
    "to_uint8",
    "write_figure1",
]
