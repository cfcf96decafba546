"""Checkpoints of a run, and its best model.

RUN/checkpoints/step_XXXXXXXX/ holds the model as save_pretrained writes it, and state.pt. RUN/best/step_XXXXXXXX/
holds the best model (train/selection.py), and its distance in best.json. A folder is written under another name and
then renamed, and renamed before it is deleted, so a folder with its final name is complete. Each holds the hashes of
its files (rlv2v_fast/hashes.py).
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from rlv2v_fast.errors import InputError
from rlv2v_fast.hashes import check_hash, check_hashes, write_hashes
from rlv2v_fast.models.rlv2vgan import CONFIG_FILE, RLV2VGAN
from rlv2v_fast.train import distributed

FORMAT = 1
STATE_FILE, BEST_FILE, SETTINGS_FILE = "state.pt", "best.json", "config.yaml"
_PREFIX = "step_"
_PATHS = ("source:", "target:", "out:", "pairs:", "cache:")


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return _complete(run / "checkpoints")


def _complete(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob(f"{_PREFIX}*") if p.name[len(_PREFIX) :].isdigit())


def save_checkpoint(run: Path, step: int, model: RLV2VGAN, state: dict[str, Any], keep: int) -> Path:
    """The folder of a new checkpoint, which is written atomically; all but the newest `keep` are then deleted.

    In a run of several processes all of them call it: process 0 writes the model, and each writes its own state. All
    must see the same file system.
    """
    folder = run / "checkpoints" / f"{_PREFIX}{step:08d}"
    unfinished = distributed.from_first(lambda: _unfinished(folder))
    first = distributed.rank() == 0
    try:
        with _written(f"checkpoint {folder}"):
            if first:
                unfinished.mkdir(parents=True)
                model.save_pretrained(unfinished, {"step": step}, settings=_settings(run))
            distributed.any_true(False)  # the folder is there
            torch.save({"format": FORMAT, "step": step, **state}, unfinished / state_file(distributed.rank()))
            distributed.any_true(False)  # every file is there
            if first:
                _put_in_place(unfinished, folder)
            distributed.any_true(False)  # the checkpoint is there
    finally:
        if first:
            shutil.rmtree(unfinished, ignore_errors=True)
    for old in checkpoints(run)[:-keep] if first else ():
        _remove(old)
    return folder


def save_best(run: Path, step: int, model: RLV2VGAN, distance: float) -> Path:
    """The folder of a run's new best model, which is written atomically; the previous one is then deleted."""
    folder = run / "best" / f"{_PREFIX}{step:08d}"
    unfinished = _unfinished(folder)
    try:
        with _written(f"model {folder}"):
            unfinished.mkdir(parents=True)
            facts = {"step": step, "unpaired distance": f"{distance:.4f}"}
            model.save_pretrained(unfinished, facts, settings=_settings(run))
            (unfinished / BEST_FILE).write_text(json.dumps({"step": step, "distance": distance}) + "\n")
            _put_in_place(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for old in _complete(run / "best"):
        if old != folder:
            _remove(old)
    return folder


def remove_unfinished(run: Path) -> None:
    """Delete unfinished folders of processes that were killed while they wrote a checkpoint or a model."""
    for left in [*run.glob(f"checkpoints/.{_PREFIX}*"), *run.glob(f"best/.{_PREFIX}*")]:
        shutil.rmtree(left, ignore_errors=True)


def newest_whole(run: Path) -> tuple[Path | None, list[InputError]]:
    """The newest checkpoint whose files are as they were written, None where there is none; and what newer ones lack.

    Raises:
        InputError: there are checkpoints, and all of them are damaged. It names the first damaged file of the newest.
    """
    errors: list[InputError] = []
    for folder in reversed(checkpoints(run)):
        try:
            check_hashes(folder)
        except InputError as error:
            errors.append(error)
        else:
            return folder, errors
    if errors:
        raise errors[0]
    return None, []


def set_aside(folder: Path) -> Path:
    """The new name of a damaged folder, under which it is no checkpoint or best model any more."""
    aside = folder.with_name(f"damaged_{folder.name}.{secrets.token_hex(4)}")
    with _written(f"folder {aside}"):
        folder.rename(aside)
    return aside


def damage_of_best(run: Path) -> tuple[Path, InputError] | None:
    """The folder of a run's best model, and what is wrong with it; None where nothing is."""
    folder = best_folder(run)
    if folder is not None:
        try:
            check_hashes(folder)
            best_distance(run)
        except InputError as error:
            return folder, error
    return None


def best_folder(run: Path) -> Path | None:
    """The folder of a run's best model, None where there is none."""
    return next(reversed(_complete(run / "best")), None)


def best_distance(run: Path) -> float:
    """The distance of a run's best model; infinite where there is none."""
    best = best_folder(run)
    if best is None:
        return math.inf
    path = best / BEST_FILE
    try:
        return float(json.loads(path.read_text())["distance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def step_of(folder: Path) -> int:
    """The step in the name of a checkpoint's or a best model's folder."""
    return int(folder.name.removeprefix(_PREFIX))


def state_file(process: int) -> str:
    """Name of the file with the state of a process. The file of process 0 also holds what all processes share."""
    return f"state_{process}.pt" if process else STATE_FILE


def load_state(folder: Path, process: int = 0) -> dict[str, Any]:
    """The state of a process in a checkpoint. InputError where it is missing, damaged or of another format."""
    path = folder / state_file(process)
    check_hash(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    except FileNotFoundError:
        raise InputError(f"checkpoint {folder} has no {path.name}") from None
    except Exception as error:  # the unpickler raises almost any error on damaged bytes
        raise InputError(
            f"checkpoint file {path} cannot be read: {(str(error) or repr(error)).splitlines()[0]}"
        ) from error
    if version != FORMAT:
        raise InputError(f"checkpoint {path} has format {version}; this version of rlv2v_fast reads format {FORMAT}")
    return state


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Turn errors of a state that was read from folder and is not what this version writes into InputError."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise InputError(f"checkpoint {folder} does not hold the state of this run: {reason}") from error


def model_folder(path: Path) -> Path:
    """The saved model that --model names: a saved model, a checkpoint, or a run's best model or newest checkpoint."""
    if not path.is_dir():
        raise InputError(f"model must be a run or a saved model's folder; {str(path)!r} is not a folder")
    if (path / CONFIG_FILE).is_file():
        return path
    models = _complete(path / "best") or checkpoints(path)
    if not models:
        raise InputError(f"model {str(path)!r} holds neither a {CONFIG_FILE} nor a checkpoint")
    return models[-1]


def _settings(run: Path) -> str:
    """The settings of a run as it wrote them, without paths, which may be private; "" before it did."""
    path = run / SETTINGS_FILE
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return "\n".join(line for line in lines if not line.startswith(_PATHS))


def _unfinished(folder: Path) -> Path:
    """A folder to write into and then rename to `folder`. No other process, running or killed, has its name."""
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")


@contextmanager
def _written(what: str) -> Iterator[None]:
    """Turn errors of writing into InputError. On a full disk, safetensors and torch.save raise no OSError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise InputError(
            f"{what} cannot be written: {reason or (str(error) or repr(error)).splitlines()[0]}"
        ) from error


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Rename a folder once all of it is on the disk, its hashes included."""
    write_hashes(unfinished)
    for path in (*unfinished.iterdir(), unfinished):
        _flush(path)
    if folder.exists():
        _remove(folder)
    unfinished.rename(folder)
    _flush(folder.parent)  # older ones are deleted next


def _remove(folder: Path) -> None:
    """Delete a complete folder. Renamed first, it is not taken for a complete one where the process ends halfway."""
    leaving = _unfinished(folder)
    with suppress(OSError):
        folder.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
