"""Tables and contact sheets of the quality runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.quality.score import Pair, Translate
from rlv2v_fast.data.video import to_uint8

Row = Mapping[str, Any]
UNKNOWN = "–"
# Score, heading, decimals.
SCORES = (
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
BACK = (("psnr", "back PSNR dB", 1), ("ssim", "back SSIM", 2))
CRITICS = (
    ("explained_variance_x", "explained x", 2),
    ("explained_variance_y", "explained y", 2),
    ("explained_within_x", "within x", 2),
    ("explained_within_y", "within y", 2),
    ("reward_y", "reward y", 2),
    ("final_reward_y", "final reward y", 2),
    ("return_std_y", "return deviation y", 2),
    ("value_y", "value y", 2),
)
_SHEET_CLIPS, _SHEET_FRAME = 8, 8


def summary(rows: Sequence[Row]) -> str:
    """Markdown tables for each task of the rows, of means and, with several seeds, standard deviations.

    The tables are of the scores, of the background's colour by position in the clip, and of the critics. The last two
    are made if rows have those fields.
    """
    tables = []
    for task in dict.fromkeys(row["task"] for row in rows):
        groups = _grouped([row for row in rows if row["task"] == task])
        tables.append(_table(task, groups, ["seeds", "steps", *_headings(SCORES), *_headings(BACK)], _scores))
        positioned = {key: group for key, group in groups.items() if "background_at" in group[0]}
        if positioned:
            frames = len(next(iter(positioned.values()))[0]["background_at"])
            tables.append(_table(task, positioned, [f"frame {t + 1}" for t in range(frames)], _positions))
        examined = {key: group for key, group in groups.items() if "critics" in group[0]}
        if examined:
            tables.append(_table(task, examined, ["actor's share", *_headings(CRITICS)], _critics))
    return "\n\n".join(tables)


def _headings(columns: Sequence[tuple[str, str, int]]) -> list[str]:
    return [heading for _, heading, _ in columns]


def _grouped(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Groups of rows that differ only by their seed, in the order of k."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["k"], row["variant"], row["minutes"], row["clock"], row["threads"]), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: item[0][0]))


def _table(
    task: str,
    groups: Mapping[tuple[Any, ...], Sequence[Row]],
    headings: Sequence[str],
    cells: Callable[[Sequence[Row]], list[str]],
) -> str:
    """A Markdown table of the groups, without columns that are empty for all of them."""
    rows = []
    for (k, variant, minutes, clock, threads), group in groups.items():
        rows.append([str(k), variant, _spent(minutes, clock, threads, group), *cells(group)])
    columns = zip([f"{task}: k", "variant", "minutes", *headings], zip(*rows, strict=True), strict=True)
    kept = [(heading, column) for heading, column in columns if set(column) != {UNKNOWN}]
    lines = [[heading for heading, _ in kept], ["---"] * len(kept), *zip(*(column for _, column in kept), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _spent(minutes: float | None, clock: str | None, threads: int | None, group: Sequence[Row]) -> str:
    """The minutes given to the runs of a group, or the minutes that whole runs took."""
    if minutes is None:
        return f"{mean_and_spread([row['seconds'] / 60 for row in group], 1)} {clock} x{threads}"
    return f"{minutes:g} {clock} x{threads}" if minutes else UNKNOWN


def _scores(group: Sequence[Row]) -> list[str]:
    forward = [mean_and_spread([row.get(name) for row in group], digits) for name, _, digits in SCORES]
    back = [mean_and_spread([row.get("back", {}).get(name) for row in group], digits) for name, _, digits in BACK]
    return [str(len(group)), f"{np.mean([row['steps'] for row in group]):.0f}", *forward, *back]


def _positions(group: Sequence[Row]) -> list[str]:
    return [mean_and_spread(list(shares), 2) for shares in zip(*(row["background_at"] for row in group), strict=True)]


def _critics(group: Sequence[Row]) -> list[str]:
    """The cells about critics. The actor's share is its gradient's norm over the sum of both norms of the policy."""
    norms = [(row["gradients"].get("gradient_actor", 0.0), row["gradients"]["gradient_policy"]) for row in group]
    share = mean_and_spread([actor / (actor + policy) for actor, policy in norms], 4)
    return [share, *(mean_and_spread([row["critics"][name] for row in group], digits) for name, _, digits in CRITICS)]


def mean_and_spread(values: Sequence[float | None], digits: int) -> str:
    """The mean of the values that are not None, and with several of them the standard deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return UNKNOWN
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"


def write_sheet(path: Path, translate: Translate, pairs: Sequence[Pair]) -> None:
    """Write a PNG of one frame of each of the first clips (columns): source, translation and truth (rows)."""
    clips = [(pair.source, translate(pair.source), pair.truth) for pair in pairs[:_SHEET_CLIPS]]
    frames = [torch.cat([clip[min(_SHEET_FRAME, len(clip) - 1)] for clip in column], dim=1) for column in clips]
    sheet = to_uint8(torch.cat(frames, dim=2).unsqueeze(0))[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).resize((2 * sheet.shape[1], 2 * sheet.shape[0]), Image.Resampling.NEAREST).save(path)
