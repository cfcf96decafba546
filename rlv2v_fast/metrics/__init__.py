"""Scores of translated videos, and baselines: translations that need no training."""

from rlv2v_fast.metrics.baselines import (
    fit_histogram,
    fit_mean_std,
    histogram_matching,
    mean_clip,
    mean_frame,
    mean_std_transfer,
)
from rlv2v_fast.metrics.frame import psnr, ssim
from rlv2v_fast.metrics.frechet import frechet_distance, kernel_distance
from rlv2v_fast.metrics.lit import lit_iou, lit_pixels
from rlv2v_fast.metrics.patches import patch_distance
from rlv2v_fast.metrics.video import temporal_difference, temporal_error, warping_error

__all__ = [
    "fit_histogram",
    "fit_mean_std",
    "frechet_distance",
    "histogram_matching",
    "kernel_distance",
    "lit_iou",
    "lit_pixels",
    "mean_clip",
    "mean_frame",
    "mean_std_transfer",
    "patch_distance",
    "psnr",
    "ssim",
    "temporal_difference",
    "temporal_error",
    "warping_error",
]
