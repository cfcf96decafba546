"""The demo: learn Figure 1's task from generated clips, then translate and score clips of unseen scenes."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rlv2v_fast.data.clips import Domain
from rlv2v_fast.data.synthetic import BLUE, RED, figure1_clips, figure1_pair
from rlv2v_fast.data.video import to_tensor, to_uint8
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.errors import InputError
from rlv2v_fast.files import check_folder, replaced
from rlv2v_fast.metrics.baselines import fit_mean_std, mean_std_transfer
from rlv2v_fast.metrics.figure1 import background_accuracy, digit_iou
from rlv2v_fast.metrics.frame import psnr, ssim
from rlv2v_fast.metrics.video import temporal_error
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.config import load_config, resolve
from rlv2v_fast.train.report.write import REPORT_FILE, reported
from rlv2v_fast.train.run import fit

SOURCE_CLIPS, TARGET_CLIPS = 200, 40
# Seeds of scenes. Training draws its scenes from lists of numbers that start with the run's seed, never from these.
TEST_SCENES = range(1_000_000, 1_000_008)
COLUMNS = 8
# Stands for the folders of videos in a demo's configuration.
NO_FILES = Path("figure1")
# The colours that a background may be taken for: blue, red or the source's black.
PALETTE = torch.tensor([BLUE, RED, (0, 0, 0)], dtype=torch.float32) / 127.5 - 1


def run_demo(
    out: Path, *, minutes: float = 4.0, seed: int = 0, quiet: bool = False, environment: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Scores, by method and name, on eight scenes that the demo did not train on; writes pictures and a report.

    Args:
        out: folder of the run; an earlier demo there is replaced.
        minutes: training time.
        seed: of the training clips and of the run.
        environment: what the report tells of the machine, a fact a line.

    Raises:
        InputError: out holds something other than a demo, or minutes is not positive.
    """
    if minutes <= 0:
        raise InputError(f"minutes must be above 0; got {minutes}")
    _clear(out)
    config = dataclasses.replace(
        load_config("figure1-cpu"), source=NO_FILES, target=NO_FILES, out=out, seed=seed, quiet=quiet
    )
    config = resolve(dataclasses.replace(config, max_minutes=minutes))
    frames, side = config.frames, config.size
    sources = figure1_clips("source", SOURCE_CLIPS, frames, side, seed)
    targets = figure1_clips("target", TARGET_CLIPS, frames, side, seed)
    domains = {
        "x": Domain.from_arrays(sources, frames=frames, size=side),
        "y": Domain.from_arrays(targets, frames=frames, size=side),
    }
    print(f"Training for {minutes:g} minutes on {SOURCE_CLIPS} source and {TARGET_CLIPS} target clips, unpaired")
    with reported(config, domains, environment):
        trainer = fit(config, domains)
    fitted = fit_mean_std([to_tensor(clip) for clip in targets])
    scores = _score(trainer.model, fitted, frames, side)
    _report(scores, trainer.step)
    _show(trainer.model, fitted, frames, side, out)
    return scores


def _clear(out: Path) -> None:
    """Remove an earlier demo. InputError where out holds anything else."""
    if out.exists() and not (out.is_dir() and (_is_demo(out) or not any(out.iterdir()))):
        raise InputError(f"out {str(out)!r} holds something that is not a demo; give another folder")
    check_folder(out, f"out {str(out)!r}")
    shutil.rmtree(out, ignore_errors=True)


def _is_demo(folder: Path) -> bool:
    """Whether a demo wrote the folder: its configuration names no files of videos."""
    path = folder / "config.yaml"
    try:
        config = load_config(path) if path.is_file() else None
    except InputError:
        return False
    return config is not None and config.source == config.target == NO_FILES


def _methods(model: RLV2VGAN, fitted: tuple[Tensor, Tensor], source: Tensor) -> dict[str, Tensor]:
    return {
        "identity": source,
        "colour transfer": mean_std_transfer(source, *fitted).clamp(-1, 1),
        "RL-V2V-GAN": model.translate(source.to(next(model.parameters()).device)).cpu(),
    }


def _score(model: RLV2VGAN, fitted: tuple[Tensor, Tensor], frames: int, size: int) -> dict[str, dict[str, float]]:
    """Mean scores over the test scenes, by method and name."""
    rows: dict[str, list[dict[str, float]]] = {}
    for scene in TEST_SCENES:
        source, target, mask = figure1_pair(scene, frames, size)
        truth, digits = to_tensor(target), torch.from_numpy(mask)
        for name, video in _methods(model, fitted, to_tensor(source)).items():
            right, iou = figure1_scores(video, digits)
            scores = {
                "PSNR dB": psnr(video, truth).mean().item(),
                "SSIM": ssim(video, truth).mean().item(),
                "temporal error": temporal_error(video, truth).item(),
                "background": float(np.mean(right)),
                "digit IoU": iou,
            }
            rows.setdefault(name, []).append(scores)
    return {
        name: {key: float(np.mean([row[key] for row in scenes])) for key in scenes[0]} for name, scenes in rows.items()
    }


def figure1_scores(video: Tensor, digits: Tensor) -> tuple[list[float], float]:
    """Whether each frame's background has its true colour (1 or 0), and the digits' intersection over union.

    Args:
        video: (T, 3, H, W) in [-1, 1]; its background should be blue in the first half and red in the second.
        digits: (T, H, W) bool, where the digits are.
    """
    true = (torch.arange(len(video)) >= len(video) / 2).long()
    frames = zip(video.split(1), true.split(1), digits.split(1), strict=True)
    return [background_accuracy(*frame, PALETTE).item() for frame in frames], digit_iou(video, digits).item()


def _report(scores: dict[str, dict[str, float]], steps: int) -> None:
    names = list(next(iter(scores.values())))
    print(f"After {steps} steps, on {len(TEST_SCENES)} scenes never trained on (mean):")
    print(f"{'':16s}" + "".join(f"{name:>16s}" for name in names))
    for method, row in scores.items():
        print(f"{method:16s}" + "".join(f"{row[name]:16.3f}" for name in names))


def _show(model: RLV2VGAN, fitted: tuple[Tensor, Tensor], frames: int, size: int, out: Path) -> None:
    """Write one unseen scene as preview.png (source, colour transfer, translation, truth) and translation.gif."""
    source, target, _ = figure1_pair(TEST_SCENES[0], frames, size)
    methods = _methods(model, fitted, to_tensor(source))
    translated = to_uint8(methods["RL-V2V-GAN"])
    columns = np.linspace(0, frames - 1, COLUMNS).round().astype(int)
    rows = [source, to_uint8(methods["colour transfer"]), translated, target]
    sheet = Image.fromarray(np.concatenate([np.concatenate(list(row[columns]), axis=1) for row in rows]))
    scale = max(1, 96 // size)
    with replaced(out / "preview.png", f"preview {str(out / 'preview.png')!r}") as unfinished:
        sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(unfinished)
    with VideoWriter(out / "translation.gif", size, size, 8) as writer:
        for frame in translated:
            writer.write(frame)
    print(f"{out / 'preview.png'}: source, colour transfer, RL-V2V-GAN, truth (rows); {out / 'translation.gif'}")
    print(f"report: {out / REPORT_FILE}")
