"""Scores of a model's translations against aligned references, beside the scores of the untranslated source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlv2v_fast.data.video import read_frames, to_tensor
from rlv2v_fast.errors import InputError
from rlv2v_fast.looks.look import Look
from rlv2v_fast.metrics.frame import psnr, ssim
from rlv2v_fast.metrics.video import temporal_difference, temporal_error
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.frames import pieces
from rlv2v_fast.train.pairs import by_name, shape_of

# Frames translated at once.
_AT_ONCE = 8


def evaluate(
    model: RLV2VGAN | Look, source: Path, reference: Path | None, *, direction: str = "x2y", device: torch.device
) -> dict[str, Any]:
    """The scores of every translated video of source, and their means. Memory does not grow with a video's length.

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
        if references is not None and name not in references:
            raise InputError(f"reference has no video named {name!r}, which source has")
        truth = references[name] if references is not None else None
        rows.append({"video": name, **_row(model, path, truth, direction, device)})
    keys = dict.fromkeys(key for row in rows for key in row if key not in ("video", "frames"))
    return {"videos": rows, "mean": {key: float(np.mean([row[key] for row in rows if key in row])) for key in keys}}


def _row(
    model: RLV2VGAN | Look, source: Path, reference: Path | None, direction: str, device: torch.device
) -> dict[str, Any]:
    """The scores of one video. Frames pass by one at a time, so that its length does not matter."""
    sums = _Sums()
    before: dict[str, Tensor] = {}
    truths = read_frames(reference) if reference is not None else None
    for video, translated in _translated(model, source, direction, device):
        now = {"video": video, "translated": translated}
        if truths is not None and reference is not None:
            truth = next(truths, None)
            if truth is None or truth.shape != video.shape[1:] + video.shape[:1]:
                raise _unfit(source, reference)
            now["truth"] = to_tensor(truth[None])[0].to(device)
        sums.frame(now, before)
        before = now
    if truths is not None and reference is not None and next(truths, None) is not None:
        raise _unfit(source, reference)
    return sums.means()


class _Sums:
    """Sums of scores over the frames of a video, and over its changes from frame to frame."""

    def __init__(self) -> None:
        self.frames = 0
        self.of_frames: dict[str, float] = {}
        self.of_changes: dict[str, float] = {}

    def frame(self, now: dict[str, Tensor], before: dict[str, Tensor]) -> None:
        """Add a frame (C, H, W) of the video, its translation and the truth, if there is one."""
        self.frames += 1
        changes = {name: torch.stack([before[name], frame]) for name, frame in now.items() if before}
        if before:
            _add(self.of_changes, "temporal_difference", temporal_difference(changes["translated"]))
        if "truth" not in now:
            return
        for name, prefix in (("translated", ""), ("video", "identity_")):
            _add(self.of_frames, f"{prefix}psnr", psnr(now[name], now["truth"]))
            _add(self.of_frames, f"{prefix}ssim", ssim(now[name], now["truth"]))
            if before:
                _add(self.of_changes, f"{prefix}temporal_error", temporal_error(changes[name], changes["truth"]))

    def means(self) -> dict[str, Any]:
        frames = {name: value / self.frames for name, value in self.of_frames.items()}
        changes = {name: value / (self.frames - 1) for name, value in self.of_changes.items()}
        return {"frames": self.frames, **changes, **frames}


def _add(sums: dict[str, float], name: str, score: Tensor) -> None:
    sums[name] = sums.get(name, 0.0) + score.item()


def _translated(
    model: RLV2VGAN | Look, source: Path, direction: str, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each frame of a video and its translation, (C, H, W) in [-1, 1]."""
    waiting: list[Tensor] = []

    def noted() -> Iterator[Tensor]:
        for piece in pieces(read_frames(source), _AT_ONCE, device):
            waiting.extend(piece[0])
            yield piece

    for piece in model.translate_stream(noted(), direction):
        yield from zip(waiting, piece[0], strict=True)
        waiting.clear()


def _unfit(source: Path, reference: Path) -> InputError:
    shapes = [shape_of(path) for path in (source, reference)]
    return InputError(
        f"reference {reference} must have the frames and size of its source, (T, C, H, W) = {shapes[0]}; "
        f"got {shapes[1]}"
    )
