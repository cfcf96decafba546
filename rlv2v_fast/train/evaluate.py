"""Scores of a model's translations against aligned references, beside the scores of the untranslated source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlv2v_fast.data.video import read_frames, to_tensor
from rlv2v_fast.errors import InputError
from rlv2v_fast.looks.look import Look
from rlv2v_fast.metrics.frame import psnr, ssim
from rlv2v_fast.metrics.video import temporal_difference, temporal_error
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.pairs import by_name


def evaluate(
    model: RLV2VGAN | Look, source: Path, reference: Path | None, *, direction: str = "x2y", device: torch.device
) -> dict[str, Any]:
    """The scores of every translated video of source, and their means.

    Args:
        source: video or folder.
        reference: video or folder that has, for each source video, one of the same relative name (with any suffix),
            frame count and size. If each side has one video, names do not matter. With None, only the temporal
            difference is scored.

    Returns:
        {"videos": [one row each], "mean": row}. A row holds frames and temporal_difference (mean absolute change from
        frame to frame, of values in [-1, 1]). With references it also holds psnr (dB), ssim and temporal_error, and
        the same scores of the untranslated source as identity_psnr, identity_ssim and identity_temporal_error.
    """
    sources = by_name(source, "source")
    references = by_name(reference, "reference") if reference is not None else None
    if references is not None and len(sources) == len(references) == 1:
        references = dict(zip(sources, references.values(), strict=True))
    rows = []
    for name, path in sources.items():
        video = to_tensor(np.stack(list(read_frames(path)))).to(device)
        translated = model.translate(video, direction)
        row: dict[str, Any] = {"video": name, "frames": video.shape[0]}
        if video.shape[0] > 1:
            row["temporal_difference"] = temporal_difference(translated).mean().item()
        if references is not None:
            truth = _reference(references, name, video.shape).to(device)
            row |= _scores(translated, truth, "") | _scores(video, truth, "identity_")
        rows.append(row)
    keys = dict.fromkeys(key for row in rows for key in row if key not in ("video", "frames"))
    return {"videos": rows, "mean": {key: float(np.mean([row[key] for row in rows if key in row])) for key in keys}}


def _scores(video: torch.Tensor, truth: torch.Tensor, prefix: str) -> dict[str, float]:
    # Frame by frame, because the SSIM windows of a whole long video would not fit into memory.
    frames = list(zip(video.split(1), truth.split(1), strict=True))
    scores = {
        f"{prefix}psnr": torch.cat([psnr(*pair) for pair in frames]).mean().item(),
        f"{prefix}ssim": torch.cat([ssim(*pair) for pair in frames]).mean().item(),
    }
    if video.shape[0] > 1:
        scores[f"{prefix}temporal_error"] = temporal_error(video, truth).mean().item()
    return scores


def _reference(references: dict[str, Path], name: str, shape: torch.Size) -> torch.Tensor:
    if name not in references:
        raise InputError(f"reference has no video named {name!r}, which source has")
    truth = to_tensor(np.stack(list(read_frames(references[name]))))
    if truth.shape != shape:
        raise InputError(
            f"reference {references[name]} must have the frames and size of its source, (T, C, H, W) = {tuple(shape)}; "
            f"got {tuple(truth.shape)}"
        )
    return truth
