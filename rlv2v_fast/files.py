"""Files that are written: whole or not at all, only where asked, and with an error that names them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlv2v_fast.errors import InputError

# How names of temporaries begin.
_MARK = ".rlv2v-"


@contextmanager
def written(what: str) -> Iterator[None]:
    """Turn an OSError inside the block (a full disk, a missing permission) into InputError: "{what} cannot be written".

    Args:
        what: the file as messages name it, such as "out 'look.cube'".
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{what} cannot be written: {error.strerror or error}") from error


def temporary(path: Path) -> Path:
    """A new name in the folder of path, to write under and then rename. It is short, however long path's name is."""
    return path.with_name(f"{_MARK}{secrets.token_hex(6)}.tmp{path.suffix.lower()[:8]}")


def remove_temporaries(folder: Path) -> None:
    """Delete what killed processes left in a folder into which no other process writes now."""
    for left in folder.glob(f"{_MARK}*.tmp*"):
        with suppress(OSError):
            left.unlink()


@contextmanager
def replaced(path: Path, what: str) -> Iterator[Path]:
    """A name to write a file under, which then becomes path. Until all of it is on the disk path keeps its old content.

    Args:
        what: the file as messages name it.

    Raises:
        InputError: the file cannot be written.
    """
    # A link stays a link: the file that it names is replaced.
    path = Path(os.path.realpath(path))
    unfinished = temporary(path)
    with written(what):
        try:
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())  # a disk may say only now that it is full
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str, what: str) -> None:
    """Write text into path, whole or not at all. InputError where it cannot be written."""
    with replaced(path, what) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def check_writable(path: Path, what: str, *, overwrite: bool = True) -> None:
    """Raise InputError where it is already known that the file path cannot be written, or where it must not be.

    Args:
        what: the file as messages name it.
        overwrite: whether an existing file may be replaced.
    """
    with written(what):
        if path.is_dir():
            raise InputError(f"{what} cannot be written: it is a folder")
        parent = Path(os.path.realpath(path)).parent
        if not overwrite and os.path.lexists(path):
            raise InputError(f"{what} exists already; pass --overwrite to replace it")
        if not parent.is_dir():
            raise InputError(f"{what} cannot be written: '{parent}' is not a folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{what} cannot be written: the folder '{parent}' is not writable")
        _check_length(parent, path.name, what)


def _check_length(folder: Path, name: str, what: str) -> None:
    """Raise InputError where the file system allows no name of this length."""
    try:
        longest = os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # the system does not say
        return
    size = len(os.fsencode(name))
    if size > longest:
        raise InputError(f"{what} cannot be written: its name has {size} bytes, and at most {longest} are possible")


def check_folder(path: Path, what: str) -> None:
    """Raise InputError where it is already known that no file can be written into the folder path, once it is made."""
    with written(what):
        there = Path(os.path.realpath(path))
        while not there.exists() and there != there.parent:
            _check_length(there.parent, there.name, what)
            there = there.parent
        if not there.is_dir():
            raise InputError(f"{what} cannot be written: '{there}' is not a folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise InputError(f"{what} cannot be written: the folder '{there}' is not writable")
