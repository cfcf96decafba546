"""Locks that end with the process that holds them, however it ends; and temporaries, known by them from leftovers."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# The longest name of a file on common file systems, in bytes.
_LONGEST_NAME = 255
# Seconds after which a temporary that another machine made, and nobody wrote to since, counts as left behind.
_OLD = 24 * 3600


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock named by the file path within the context; gives whether it is held.

    The file is made where it is missing and removed at the end. A file system without locks gives every caller the
    lock: its users must then be safe without one.

    Args:
        wait: wait for a lock that is held elsewhere; otherwise the context is entered with False.
    """
    descriptor = _acquire(path, wait)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path, wait: bool) -> int | None:
    """An open file that holds the lock; None where it is held elsewhere."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _lock(descriptor, wait):
            os.close(descriptor)
            return None
        # Whoever held the lock before has removed its file: a lock on that file would exclude nobody.
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _lock(descriptor: int, wait: bool) -> bool:
    """Whether the file is locked now; true as well where the file system has no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


class Temporary:
    """A file or folder beside `path`, to write into and then rename to it, that is known to be in use while it is.

    The name says which machine made it, and a lock on it says whether its process still lives.

    Args:
        path: the final name.
        folder: make a folder instead of an empty file.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, *, folder: bool = False) -> None:
        while True:
            self.path = hidden_beside(path)
            self._descriptor = _made(self.path, folder)
            if self._descriptor < 0:
                return
            _lock(self._descriptor, wait=True)
            # One that was taken for litter before it was locked is made again.
            with suppress(OSError):
                if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                    return
            os.close(self._descriptor)

    def close(self) -> None:
        """Give the lock up and delete what was not renamed."""
        remove(self.path)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _made(path: Path, folder: bool) -> int:
    if folder:
        path.mkdir()
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    # Windows opens no folders, and removes no file that is open.
    return os.open(path, os.O_RDONLY) if fcntl is not None else -1


def _machine() -> str:
    """Eight hexadecimal digits that differ between machines."""
    return f"{zlib.crc32(platform.node().encode(errors='surrogateescape')):08x}"


def hidden_beside(path: Path) -> Path:
    """A hidden name in the folder of path with its suffix, no longer than file systems take."""
    mark = f".{_machine()}{secrets.token_hex(4)}.tmp{path.suffix.lower()}"
    stem = os.fsencode(path.stem)[: _LONGEST_NAME - len(os.fsencode(mark)) - 1]
    return path.with_name(f".{os.fsdecode(stem)}{mark}")


_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})[0-9a-f]{8}\.tmp(\.\w+)?", re.DOTALL)


def remove_left_behind(folder: Path) -> None:
    """Delete the temporaries in folder whose processes were killed. Those in use are left alone.

    Locks do not reach other machines: what another one made is deleted once nobody has written to it for a day.
    """
    for path in _hidden(folder):
        match = _TEMPORARY.fullmatch(path.name)
        with suppress(OSError):
            if match and fcntl is not None and match.group(1) == _machine():
                _remove_unless_locked(path)
            elif match and time.time() - _newest(path) > _OLD:
                remove(path)


def _hidden(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:
        return []


def _remove_unless_locked(path: Path) -> None:
    """OSError where its process holds the lock, or there is no lock to be had."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(path)  # under the lock, so that a process that makes it just now learns of it
    finally:
        os.close(descriptor)


def _newest(path: Path) -> float:
    return max([path.stat().st_mtime, *(inner.stat().st_mtime for inner in path.glob("*"))])


def remove(path: Path) -> None:
    """Delete a file or folder if it is there; errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
