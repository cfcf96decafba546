"""Translating every video of a folder into another folder, in one process or several.

OUTPUT/translations.jsonl says what each translation was made of, a line each. Where that is still so it is not made
again, and a file that it does not name is never replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from rlv2v_fast.data.clips import find_videos
from rlv2v_fast.data.video import frame_files
from rlv2v_fast.data.writer import OUTPUT_SUFFIXES
from rlv2v_fast.errors import InputError
from rlv2v_fast.models.rlv2vgan import CONFIG_FILE, WEIGHTS_FILE
from rlv2v_fast.train import distributed
from rlv2v_fast.train.checkpoint import model_folder

RECORD = "translations.jsonl"
# How long one process may wait for the others to end: as long as it takes.
PATIENCE = timedelta(days=30)


def is_folder_of_videos(path: Path) -> bool:
    """Whether path is a folder that is not itself a video, made of frames."""
    return path.is_dir() and not frame_files(path)


@dataclass(frozen=True)
class Task:
    """A video to translate: its file, that of its translation, and what the translation is made of."""

    source: Path
    output: Path
    made_of: Mapping[str, Any]


@dataclass
class Outcome:
    """What became of the videos of a folder: how many were translated with how many frames, and were there before.

    failed: sentences that name a video and say why it has no translation.
    """

    translated: int = 0
    frames: int = 0
    already: int = 0
    failed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{self.translated} translated ({self.frames} frames)"]
        parts += [f"{self.already} already there"] * (self.already > 0)
        parts += [f"{len(self.failed)} failed"] * (len(self.failed) > 0)
        return ", ".join(parts)


def translate_folder(
    source: Path,
    output: Path,
    settings: Mapping[str, Any],
    translate: Callable[[Path, Path], int],
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Translate each video below source into a file of the same name below output.

    A video that fails does not end it. Processes that torchrun started share the videos out by their sizes; all must
    see the same file system.

    Args:
        source, output: folders; output is made where it is missing.
        settings: what a translation is made of beside its source, as JSON knows it.
        translate: translates a file into another and gives the number of frames.
        tell: called with a sentence on each video that was translated, or could not be.

    Returns:
        The outcome of all processes together.

    Raises:
        InputError: source holds no video, or output cannot be written or is source.
    """
    tasks, before = distributed.from_first(lambda: _plan(source, output, settings))
    own = Outcome()
    for task in _share(tasks, distributed.rank(), distributed.count()):
        try:
            _make(task.output.parent)
            # First, so that a file is never there without a line. Whether it is this one the second line says.
            _note(output, task, None)
            count = translate(task.source, task.output)
            _note(output, task, count)
        except InputError as error:
            own.failed.append(f"{task.source}: {error}")
            tell(str(error))
        else:
            own.translated, own.frames = own.translated + 1, own.frames + count
            tell(f"{task.output}: {count} frames")
    for each in distributed.from_each(own):
        before.translated, before.frames = before.translated + each.translated, before.frames + each.frames
        before.failed += each.failed
    return before


def model_digest(path: Path) -> str:
    """Sixteen hexadecimal digits that differ for other weights or tables: of what load_model reads."""
    files = [path] if path.is_file() else [model_folder(path) / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(file.read_bytes())
    except OSError as error:
        raise InputError(f"model {error.filename} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _plan(source: Path, output: Path, settings: Mapping[str, Any]) -> tuple[list[Task], Outcome]:
    """What is left to translate, and the outcome for the rest."""
    if output.suffix.lower() in OUTPUT_SUFFIXES or (output.exists() and not output.is_dir()):
        raise InputError(f"output must be a folder, as input {str(source)!r} is one of videos; got {str(output)!r}")
    if output.resolve() == source.resolve():
        raise InputError(f"output must be another folder than input; got {str(output)!r} for both")
    inside = [video for video in find_videos(source, "input") if not video.resolve().is_relative_to(output.resolve())]
    if not inside:
        raise InputError(f"input {str(source)!r} must hold videos beside those of output; it holds none")
    _make(output)
    record = _read(output)
    tasks, outcome = [], Outcome()
    for video, name in zip(inside, _names(source, inside), strict=True):
        made_of = {**_state(video), **settings}
        if not (output / name).exists():
            tasks.append(Task(video, output / name, made_of))
        elif name not in record:
            outcome.failed.append(f"{output / name} is there already and is no translation of this command")
        elif record[name]["frames"] and {key: record[name].get(key) for key in made_of} == made_of:
            outcome.already += 1
        else:
            tasks.append(Task(video, output / name, made_of))
    return tasks, outcome


def _state(video: Path) -> dict[str, int]:
    """The size in bytes and the time of change of a video's file, or of its frames together."""
    try:
        states = [file.stat() for file in (frame_files(video) if video.is_dir() else [video])]
    except OSError:  # reading it says what is wrong
        return {"size": 0, "time": 0}
    return {"size": sum(s.st_size for s in states), "time": max(s.st_mtime_ns for s in states)}


def _names(source: Path, videos: list[Path]) -> list[str]:
    """Where each translation goes, relative to the output: the video's name, or with .mp4 for one not written here."""
    names: list[str] = []
    taken = {video.relative_to(source).as_posix() for video in videos}
    for video in videos:
        inside = video.relative_to(source)
        name = inside.as_posix()
        if video.is_file() and inside.suffix.lower() not in OUTPUT_SUFFIXES:
            name = inside.with_suffix(".mp4").as_posix()
            name = f"{inside.as_posix()}.mp4" if name in taken else name
        taken.add(name)
        names.append(name)
    return names


def _share(tasks: list[Task], rank: int, processes: int) -> list[Task]:
    """The tasks of one process, in order, so that the bytes of all processes are about equal."""
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for index in sorted(range(len(tasks)), key=lambda i: -tasks[i].made_of["size"]):
        least = loads.index(min(loads))
        shares[least].append(index)
        loads[least] += tasks[index].made_of["size"]
    return [tasks[index] for index in sorted(shares[rank])]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output {str(folder)!r} cannot be written: {error.strerror}") from error


def _read(output: Path) -> dict[str, dict[str, Any]]:
    """The last line on each translation. A line that a killed process left unfinished counts for nothing."""
    record = {}
    path = output / RECORD
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            record[row["output"]] = {"frames": None, **row}
        except (ValueError, KeyError, TypeError):
            continue
    return record


def _note(output: Path, task: Task, frames: int | None) -> None:
    """Add a line to the record; frames is None before the translation is there.

    Processes may do so at once: a line is short enough to be written in one piece.
    """
    name = task.output.relative_to(output).as_posix()
    line = json.dumps({"output": name, "source": str(task.source), "frames": frames, **task.made_of})
    path = output / RECORD
    try:
        with path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            torn = file.read(1) not in (b"", b"\n")
            file.write(f"{chr(10) * torn}{line}\n".encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
