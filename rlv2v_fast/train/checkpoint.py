"""Checkpoints: RUN/checkpoints/step_XXXXXXXX/ holds the model as save_pretrained writes it, and state.pt.

A checkpoint is written beside its place and renamed, so that one with its final name is complete.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from rlv2v_fast.errors import InputError
from rlv2v_fast.models.rlv2vgan import CONFIG_FILE, RLV2VGAN

FORMAT = 1
STATE_FILE = "state.pt"
_PREFIX = "step_"


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(p for p in (run / "checkpoints").glob(f"{_PREFIX}*") if p.name[len(_PREFIX) :].isdigit())


def save_checkpoint(run: Path, step: int, model: RLV2VGAN, state: dict[str, Any], keep: int) -> Path:
    """Write the checkpoint of a step atomically, then delete all but the newest `keep`; returns its folder."""
    folder = run / "checkpoints" / f"{_PREFIX}{step:08d}"
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        model.save_pretrained(unfinished)
        torch.save({"format": FORMAT, "step": step, **state}, unfinished / STATE_FILE)
        for path in unfinished.iterdir():
            _flush(path)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    except OSError as error:
        raise InputError(f"checkpoint {folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def load_state(folder: Path) -> dict[str, Any]:
    """state.pt of a checkpoint; InputError where it is missing, damaged or of another format."""
    path = folder / STATE_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    except FileNotFoundError:
        raise InputError(f"checkpoint {folder} has no {STATE_FILE}") from None
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        raise InputError(
            f"checkpoint file {path} cannot be read: {(str(error) or repr(error)).splitlines()[0]}"
        ) from error
    if version != FORMAT:
        raise InputError(f"checkpoint {path} has format {version}; this version of rlv2v_fast reads format {FORMAT}")
    return state


def model_folder(path: Path) -> Path:
    """The saved model that --model names: a folder of save_pretrained, a checkpoint, or a run (its newest)."""
    if not path.is_dir():
        raise InputError(f"model must be a run or a saved model's folder; {str(path)!r} is not a folder")
    if (path / CONFIG_FILE).is_file():
        return path
    found = checkpoints(path)
    if not found:
        raise InputError(f"model {str(path)!r} holds neither a {CONFIG_FILE} nor a checkpoint")
    return found[-1]


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
