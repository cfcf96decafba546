"""What the folder of a run says of it, read so that nothing missing or damaged is in the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlv2v_fast.domains import DIRECTIONS
from rlv2v_fast.errors import InputError
from rlv2v_fast.train.checkpoint import BEST_FILE, SETTINGS_FILE, checkpoints, load_state, model_folder, step_of
from rlv2v_fast.train.config import TrainConfig, load_config
from rlv2v_fast.train.logging import METRICS_FILE
from rlv2v_fast.train.look import LOOK_FILE
from rlv2v_fast.train.starts import STARTS
from rlv2v_fast.train.verdict import VERDICT_FILE

STARTS_FILE, SESSIONS_FILE = "starts.json", "sessions.jsonl"


@dataclass(frozen=True)
class Facts:
    """A run as its folder tells it. What it does not tell is empty or None.

    Attributes:
        run: the folder.
        config: the settings.
        rows: of metrics.jsonl, as they are, NaN included.
        unread: lines of metrics.jsonl that are not rows, as a killed process leaves them.
        starts: for each direction the unpaired distances of the starts; None for one that diverged.
        unfinished_starts: whether the run still chooses among its starts.
        look, verdict: of look.json and verdict.json.
        sessions: of sessions.jsonl, one for each time that the run was started and ended.
        model: the folder of the model that translation takes.
        best: of the best model: its step and distance.
        newest: the step of the newest checkpoint.
    """

    run: Path
    config: TrainConfig
    rows: list[dict[str, float]] = field(default_factory=list)
    unread: int = 0
    starts: Mapping[str, list[float | None]] = field(default_factory=dict)
    unfinished_starts: bool = False
    look: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    model: Path | None = None
    best: Mapping[str, Any] = field(default_factory=dict)
    newest: int | None = None


def collect(run: Path) -> Facts:
    """The facts of a run. InputError where the folder is not one of a run."""
    path = run / SETTINGS_FILE
    if not path.is_file():
        raise InputError(f"run must be the folder of a run, which holds {SETTINGS_FILE}; got {str(run)!r}")
    config = load_config(path)
    rows, unread = _rows(run / METRICS_FILE)
    starts, unfinished = _starts(run)
    saved = checkpoints(run)
    try:
        model = model_folder(run)
    except InputError:
        model = None
    return Facts(
        run=run,
        config=config,
        rows=rows,
        unread=unread,
        starts=starts,
        unfinished_starts=unfinished,
        look=_object(run / LOOK_FILE),
        verdict=_object(run / VERDICT_FILE),
        sessions=_lines(run / SESSIONS_FILE)[0],
        model=model,
        best=_object(model / BEST_FILE) if model is not None else {},
        newest=step_of(saved[-1]) if saved else None,
    )


def _rows(path: Path) -> tuple[list[dict[str, float]], int]:
    """The rows of numbers of a metrics file, and how many of its lines are none."""
    lines, unread = _lines(path)
    rows = [{name: value for name, value in row.items() if _is_number(value)} for row in lines]
    kept = [row for row in rows if "step" in row]
    return kept, unread + len(rows) - len(kept)


def _starts(run: Path) -> tuple[Mapping[str, list[float | None]], bool]:
    """The distances of the starts, of unfinished ones too, and whether they are unfinished."""
    begun = checkpoints(run / STARTS)
    found: Mapping[str, Any] = _object(run / STARTS_FILE)
    if not found and begun:
        try:
            found = load_state(begun[-1])["distances"]
        except (InputError, KeyError):
            found = {}
    starts = {name: [d if _is_number(d) else None for d in found.get(name) or []] for name in DIRECTIONS}
    return {name: each for name, each in starts.items() if each}, bool(begun)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; {} where there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a file, one a line, and the number of lines that hold none."""
    found, unread = [], 0
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            found.append(value)
        else:
            unread += 1
    return found, unread
