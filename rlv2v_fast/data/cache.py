"""Videos decoded once, in parallel processes, into files that every run on the machine maps into memory."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from rlv2v_fast.data import entries, video
from rlv2v_fast.data.decoders import Decoder
from rlv2v_fast.data.entries import Entry, UnwritableError, make_entry, read_entry
from rlv2v_fast.data.locks import locked, remove_left_behind
from rlv2v_fast.errors import InputError

_SUFFIX = ".rgb"
# Bytes of videos below which starting processes takes longer than decoding in this one.
_FEW_BYTES = 2**20


class CacheError(InputError):
    """The folder of a cache cannot be used."""


def default_folder() -> Path:
    """The user's folder for what programs can make again, and in it this package's."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "rlv2v_fast"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rlv2v_fast"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "rlv2v_fast" / "Cache"
    return Path.home() / ".cache" / "rlv2v_fast"


class FrameCache:
    """Decoded videos in a folder, under names made of the file, its size and time of change, and the frames' size.

    Several processes may use one folder at once: each video is decoded by one of them, and the others wait for it or
    decode others. Entries that were not used for longest are deleted by `trim`. A process that has mapped one keeps
    it: on POSIX the frames stay until it ends.

    Args:
        folder: made where it is missing.
        gib: bytes that `trim` leaves, in GiB.

    Raises:
        CacheError: the folder cannot be made, or not written to.
    """

    def __init__(self, folder: Path, gib: float) -> None:
        self.folder, self.limit = folder, int(gib * 2**30)
        self._failed: dict[str, str] = {}
        self._used: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise self._unwritable("Permission denied")
        remove_left_behind(folder)

    def get(self, path: Path, size: int) -> Entry:
        """The frames of the video at path, scaled so that the shorter side is `size`; decoded if they are not there.

        Raises:
            InputError: the video cannot be read.
            CacheError: its frames cannot be written.
        """
        key = self._key(path, size)
        # Another run may delete an entry between the two; that it does so time and again is another matter.
        for _ in range(3):
            if key in self._failed:
                raise InputError(self._failed[key])
            if (entry := read_entry(self._file(key))) is not None:
                self._used.add(key)
                return entry
            self._make(path, size, key)
        raise self._unwritable("other processes delete what this one writes")

    def fill(self, paths: Iterable[Path], size: int, *, progress: bool = False) -> None:
        """Decode those videos that are not there yet, in as many processes as this one may use processors.

        Those that cannot be read are left to `get`, which says why.

        Args:
            paths: of the videos.
            size: shorter side of the frames in pixels.
            progress: show a bar on standard error.

        Raises:
            CacheError: frames cannot be written.
        """
        known = self._known()
        missing = {key: path for path in paths if (key := self._key(path, size)) not in known}
        if missing:
            with tqdm(total=len(missing), desc="decoding", unit="video", disable=not progress) as bar:
                _Filling(self, missing, size, bar).run()

    def trim(self, *, keep_used: bool = True) -> None:
        """Delete the entries that were not used for longest until the rest fits the limit.

        Args:
            keep_used: spare those that this process has got, whatever their size.
        """
        for path in self.folder.glob("*.lock"):  # of processes that were killed
            with suppress(OSError), locked(path, wait=False):
                pass
        found = []
        for path in self._entries():
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_atime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                return
            if not (keep_used and path.stem in self._used):
                with suppress(OSError):  # Windows deletes no file that a process has mapped
                    path.unlink()
                    total -= size

    def trim_at_exit(self) -> None:
        """Trim once more as the process ends, what it has used included."""
        atexit.register(self.trim, keep_used=False)

    def _known(self) -> set[str]:
        return {path.stem for path in self._entries()} | self._failed.keys()

    def _entries(self) -> list[Path]:
        """Those of entries. Hidden ones are being written, perhaps by another process."""
        return [path for path in self.folder.glob(f"*{_SUFFIX}") if not path.name.startswith(".")]

    def _make(self, path: Path, size: int, key: str, decoder: Decoder | None = None, wait: bool = True) -> bool:
        """Whether the entry is there, or the video is known to be unreadable."""
        make = make_entry if decoder is None else decoder.make_entry
        try:
            return make(path, size, self._file(key), wait=wait)
        except UnwritableError as error:
            raise self._unwritable(str(error)) from error
        except InputError as error:
            self._failed[key] = str(error)
            return True

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _key(self, path: Path, size: int) -> str:
        """Differs for other files, changed files, other sizes and other code that decodes."""
        identity = [os.path.realpath(path), size, _code(), *map(_identity, _files(path))]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:40]

    def _unwritable(self, reason: str | None) -> CacheError:
        return CacheError(f"cache {str(self.folder)!r} cannot be written: {reason}; --cache takes another folder")


class _Filling:
    """Videos on their way into a cache: threads of this process, each with a process that decodes."""

    def __init__(self, cache: FrameCache, missing: dict[str, Path], size: int, bar: tqdm) -> None:
        self.cache, self.size, self.bar = cache, size, bar
        self.waiting = deque(missing.items())
        self.elsewhere: deque[tuple[str, Path]] = deque()  # videos that another process decodes now
        self.error: InputError | None = None
        self.over = False

    def run(self) -> None:
        count = min(len(self.waiting), _processors())
        if count < 2 or sum(_identity(file)[1] for _, path in self.waiting for file in _files(path)) < _FEW_BYTES:
            self._work(None)
        else:
            self._work_with([Decoder() for _ in range(count)])
        if self.error is not None:
            raise self.error

    def _work_with(self, decoders: list[Decoder]) -> None:
        threads = [threading.Thread(target=self._work, args=(decoder,), daemon=True) for decoder in decoders]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            self.over = True
            for decoder in decoders:
                decoder.close()
            remove_left_behind(self.cache.folder)

    def _work(self, decoder: Decoder | None) -> None:
        """Decode one video after the other. Those that other processes decode are waited for last."""
        try:
            while not self.over and (task := self._next()) is not None:
                (key, path), wait = task
                if self.cache._make(path, self.size, key, decoder, wait):
                    self.bar.update()
                else:
                    self.elsewhere.append((key, path))
        except InputError as error:
            self.error, self.over = error, True

    def _next(self) -> tuple[tuple[str, Path], bool] | None:
        for queue, wait in ((self.waiting, False), (self.elsewhere, True)):
            with suppress(IndexError):
                return queue.popleft(), wait
        return None


def _identity(file: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except OSError:  # reading the video says what is wrong with it
        return file.name, 0, 0
    return file.name, status.st_size, status.st_mtime_ns


def _files(path: Path) -> list[Path]:
    return video.frame_files(path) if path.is_dir() else [path]


@functools.cache
def _code() -> str:
    """A digest of the modules that turn a file into frames: other code may turn it into others."""
    return hashlib.sha256(b"".join(Path(str(m.__file__)).read_bytes() for m in (video, entries))).hexdigest()


def _processors() -> int:
    """Processors for this process; those that torchrun started on the machine share them."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
