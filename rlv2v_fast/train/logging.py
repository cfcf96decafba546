"""What a run reports: metrics.jsonl, the progress bar, previews, TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from rlv2v_fast.data.video import to_uint8
from rlv2v_fast.errors import InputError
from rlv2v_fast.files import replaced, write_text, written
from rlv2v_fast.models.rlv2vgan import RLV2VGAN

METRICS_FILE = "metrics.jsonl"
SHEET_COLUMNS = 8
# Milliseconds that an animated preview shows a frame.
FRAME_MS = 125


class RunLog:
    """Writes one JSON row a step and shows progress. Rows after `step`, which a killed run left, are dropped.

    Args:
        run: the run's folder.
        step: iterations already done.
        steps: iterations in all; None where the run ends by the clock.
        quiet: no progress bar.
        tensorboard: also write TensorBoard events into run/tensorboard.
    """

    def __init__(
        self, run: Path, step: int, steps: int | None, *, quiet: bool = False, tensorboard: bool = False
    ) -> None:
        path = run / METRICS_FILE
        self._what = f"log {str(path)!r}"
        write_text(path, "".join(_rows_until(step, path)), self._what)
        with written(self._what):
            self._file = path.open("a")
        self._bar = tqdm(total=steps, initial=step, disable=quiet, unit="step", dynamic_ncols=True)
        self._events = summary_writer()(str(run / "tensorboard")) if tensorboard else None

    def row(self, step: int, seconds: float, losses: dict[str, float]) -> None:
        """Record an iteration: its number from 1, its duration in seconds, its losses."""
        with written(self._what):
            self._file.write(json.dumps({"step": step, "seconds": round(seconds, 4), **losses}) + "\n")
            self._file.flush()
        self._bar.set_postfix_str(_summary(losses), refresh=False)
        self._bar.update()
        if self._events is not None:
            for name, value in losses.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close everything."""
        self._bar.close()
        with suppress(OSError):  # a full disk has been told of by row()
            self._file.close()
        if self._events is not None:
            self._events.close()


def _rows_until(step: int, path: Path) -> Iterator[str]:
    """The lines of a log with the rows up to step, each step once. Lines that are no rows are left out."""
    last = 0
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            number = json.loads(line)["step"]
            is_next = last < number <= step
        except (ValueError, KeyError, TypeError):
            continue
        if is_next:
            last = number
            yield line + "\n"


def _summary(losses: dict[str, float]) -> str:
    """One line of the main losses, each summed over the domains."""
    groups = {
        "D": "discriminator",
        "G": "adversarial",
        "V": "video_",
        "RR": "recurrent",
        "RC": "recycle",
        "Q": "critic",
    }
    shown = {}
    for short, prefix in groups.items():
        values = [v for name, v in losses.items() if name.startswith(prefix) and "video_discriminator" not in name]
        if values:
            shown[short] = sum(values)
    return " ".join(f"{name}={value:.3g}" for name, value in shown.items())


def summary_writer() -> Any:
    """TensorBoard's writer class. InputError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("tensorboard needs the extra: pip install 'rlv2v_fast[tb]'") from None
    return SummaryWriter


def preview_rows(model: RLV2VGAN, clips: dict[str, Tensor], device: torch.device) -> list[np.ndarray]:
    """Source, translated and reconstructed clips, (T, H, W, 3) uint8, for X -> Y -> X and then Y -> X -> Y.

    Args:
        clips: (1, T, C, H, W) of "x" and "y" in [-1, 1].
    """
    rows = []
    for domain, there, back in (("x", "x2y", "y2x"), ("y", "y2x", "x2y")):
        source = clips[domain].to(device)
        translated = model.translate(source, there)
        reconstructed = model.translate(translated, back)
        rows += [to_uint8(video[0]) for video in (source, translated, reconstructed)]
    return rows


def save_preview(rows: list[np.ndarray], path: Path) -> None:
    """Write the six clips of preview_rows twice, enlarged so that a frame has at least 64 pixels.

    As a sheet at path (png), with a row of some frames for each clip, and animated beside it (webp): a row of three
    clips for each direction.
    """
    with written(f"preview {str(path)!r}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    scale = max(1, math.ceil(64 / rows[0].shape[1]))
    shown = np.linspace(0, len(rows[0]) - 1, min(SHEET_COLUMNS, len(rows[0]))).round().astype(int)
    with replaced(path, f"preview {str(path)!r}") as unfinished:
        _enlarged(np.concatenate([np.concatenate(list(row[shown]), axis=1) for row in rows]), scale).save(unfinished)
    moving = np.concatenate([np.concatenate(rows[i : i + 3], axis=2) for i in (0, 3)], axis=1)
    first, *others = [_enlarged(frame, scale) for frame in moving]
    animated = path.with_suffix(".webp")
    with replaced(animated, f"preview {str(animated)!r}") as unfinished:
        first.save(unfinished, save_all=True, append_images=others, duration=FRAME_MS, loop=0, quality=85, method=2)


def _enlarged(picture: np.ndarray, scale: int) -> Image.Image:
    image = Image.fromarray(picture)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
