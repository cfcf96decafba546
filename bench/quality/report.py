"""Tables and contact sheets of the quality runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.quality.score import Pair, Translate
from rlv2v_fast.data.video import to_uint8

# Score, heading, decimals.
COLUMNS = (
    ("psnr", "PSNR dB", 1),
    ("ssim", "SSIM", 2),
    ("lit_iou", "lit IoU", 2),
    ("background", "background", 2),
    ("digit_iou", "digit IoU", 2),
    ("temporal_error", "temporal error", 3),
    ("warping_error", "warping error", 4),
    ("frechet", "Frechet", 0),
    ("kernel", "kernel", 2),
    ("criterion", "unpaired", 3),
)
_SHEET_CLIPS, _SHEET_FRAME = 8, 8


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line for each variant and k, mean and, where there are several seeds, standard deviation."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["k"], row["variant"], row["minutes"], row["clock"], row["threads"]), []).append(row)
    headings = ["k", "variant", "minutes", "seeds", "steps", *(heading for _, heading, _ in COLUMNS)]
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for (k, variant, minutes, clock, threads), group in sorted(groups.items(), key=lambda item: item[0][0]):
        spent = "–" if not minutes else f"{minutes:g} {clock} x{threads}"
        steps = f"{np.mean([row['steps'] for row in group]):.0f}"
        cells = [_cell([row.get(name) for row in group], digits) for name, _, digits in COLUMNS]
        lines.append("| " + " | ".join([str(k), variant, spent, str(len(group)), steps, *cells]) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"


def write_sheet(path: Path, translate: Translate, pairs: Sequence[Pair]) -> None:
    """Source, translation and truth (rows) of one frame of each of the first clips (columns), as a PNG."""
    clips = [(pair.source, translate(pair.source), pair.truth) for pair in pairs[:_SHEET_CLIPS]]
    frames = [torch.cat([clip[min(_SHEET_FRAME, len(clip) - 1)] for clip in column], dim=1) for column in clips]
    sheet = to_uint8(torch.cat(frames, dim=2).unsqueeze(0))[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).resize((2 * sheet.shape[1], 2 * sheet.shape[0]), Image.Resampling.NEAREST).save(path)
