"""A training domain: short square clips drawn at random from a set of decoded videos."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from rlv2v_fast.data.cache import CacheError, FrameCache
from rlv2v_fast.data.entries import digest_of, fit
from rlv2v_fast.data.names import (
    OTHER_SUFFIXES,
    USUAL_FRAMES,
    USUAL_VIDEOS,
    VIDEO_SUFFIXES,
    frame_files,
    natural_key,
)
from rlv2v_fast.data.video import read_frames, to_tensor
from rlv2v_fast.errors import InputError, MediaWarning

_LISTED = 5  # skipped videos named in one message


@dataclass(frozen=True)
class Clip:
    """One decoded video: its path, its read-only ``(T, H, W, 3)`` uint8 RGB frames, and their digest if it is known."""

    path: Path
    frames: np.ndarray
    known_digest: bytes | None = None

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 over shape and pixels, computed where the frames came without one."""
        return self.known_digest or digest_of(self.frames)


def find_videos(path: str | os.PathLike[str], argument: str = "path") -> list[Path]:
    """The videos at ``path``, in natural order of their names.

    A file is a list of itself. A folder is searched recursively for video files and for folders that directly hold
    pictures, each of which is one video. Links to folders are followed, and a folder that is met again is not searched
    again. Names that start with a dot are ignored. Of what else is left out, a MediaWarning tells.

    Args:
        path: a video file or a folder.
        argument: what to call ``path`` in messages.

    Raises:
        InputError: ``path`` is missing, is a file of another kind, or holds no video.
    """
    videos, left_out = survey(path, argument)
    for file, reason in left_out:
        warnings.warn(f"skipped {file}: {reason}", MediaWarning, stacklevel=2)
    return videos


def survey(path: str | os.PathLike[str], argument: str = "path") -> tuple[list[Path], list[tuple[Path, str]]]:
    """What :func:`find_videos` finds, and each file or folder that it leaves out, with the reason."""
    root = Path(path)
    known = USUAL_VIDEOS
    if not root.exists():
        raise InputError(f"{argument} must be an existing video file or folder, got '{root}'")
    if not root.is_dir():
        if root.suffix.lower() not in VIDEO_SUFFIXES:
            raise InputError(f"{argument} must be a folder or a video file ({known}), got '{root}'")
        return [root], []
    left_out: list[tuple[Path, str]] = []
    videos = sorted(
        _walk(root, left_out), key=lambda video: [natural_key(part) for part in video.relative_to(root).parts]
    )
    if not videos:
        other = f" ({left_out[0][0].name}: {left_out[0][1]})" if left_out else ""
        rule = f"{argument} must hold video files ({known}) or folders of {USUAL_FRAMES} frames"
        raise InputError(f"{rule}, got '{root}'{other}")
    return videos, left_out


def _walk(root: Path, left_out: list[tuple[Path, str]]) -> Iterator[Path]:
    """Videos below root. What is met and not yielded is added to left_out."""
    # Real folders come before links, so that a video keeps its own name where a link leads to it as well.
    waiting, met = [root], set()
    while waiting:
        folder = waiting.pop(0)
        try:
            status = folder.stat()
            entries = sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name))
        except OSError as error:
            left_out.append((folder, f"it cannot be read: {error.strerror}"))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in met:
            left_out.append((folder, "it leads to a folder that is read already"))
            continue
        met.add(identity)
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        folders = [entry for entry in shown if entry.is_dir()]
        waiting = [*(entry for entry in folders if not entry.is_symlink()), *waiting]
        waiting += [entry for entry in folders if entry.is_symlink()]
        if frame_files(folder):
            yield folder
        for entry in shown:
            suffix = entry.suffix.lower()
            if entry in folders:
                continue
            if suffix in VIDEO_SUFFIXES and entry.exists():
                yield entry
            elif suffix in VIDEO_SUFFIXES or (entry.is_symlink() and not entry.exists()):
                left_out.append((entry, "it is a link that leads nowhere"))
            elif suffix in OTHER_SUFFIXES:
                left_out.append((entry, f"{suffix} files are not read"))


@dataclass
class Domain:
    """Videos of one domain, decoded once, from which random training clips are drawn.

    Make one with :meth:`open` or :meth:`from_arrays`.

    Attributes:
        clips: the usable videos, shorter side ``size``, at least ``frames`` long.
        frames: length of a sample.
        size: side of a sample in pixels.
        flip: whether half of the samples are mirrored left to right.
        skipped: each video left out, with the reason.
    """

    clips: tuple[Clip, ...]
    frames: int
    size: int
    flip: bool = False
    skipped: tuple[tuple[Path, str], ...] = ()
    # Holds the folder of memory-mapped frames, which is removed with the domain.
    _storage: _FrameStore | None = field(default=None, repr=False, compare=False)
    _fingerprint: str | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        frames: int,
        size: int,
        few_shot: int | None = None,
        flip: bool = False,
        argument: str = "source",
        memory_gib: float = 1.0,
        cache: FrameCache | None = None,
        progress: bool = False,
    ) -> Domain:
        """A domain of the videos at ``path``, scaled with antialiasing so that their shorter side is ``size``.

        A video that cannot be read, or has fewer than ``frames`` frames, is skipped and listed in ``skipped``.

        Args:
            path: a video file or a folder, as for :func:`find_videos`.
            frames: length of a sample, at least 1.
            size: side of a sample in pixels, at least 1.
            few_shot: keep only the first this many usable videos in order of name; the rest are not read.
            flip: mirror half of the samples left to right.
            argument: what to call ``path`` in messages.
            cache: keeps decoded videos from one start to the next. Without one each start decodes them.
            memory_gib: without a cache, decoded frames kept in memory, in GiB; the rest go to a temporary file.
            progress: report on standard error what is decoded.

        Raises:
            InputError: there is no video at ``path``, none is usable, fewer than ``few_shot`` are, or a number is out
                of range; or the cache cannot be written.
        """
        _check_sizes(frames, size)
        if few_shot is not None and few_shot < 1:
            raise InputError(f"few_shot must be at least 1, got {few_shot}")
        paths, left_out = survey(path, argument)
        intake = _Intake(frames, size, _FrameStore(int(memory_gib * 2**30)), cache, skipped=left_out)
        done = 0
        while done < len(paths) and len(intake.clips) != few_shot:
            # As many as are wanted: of a small set the next ones only stand in for those that are unusable.
            wanted = len(paths) if few_shot is None else done + few_shot - len(intake.clips)
            if cache is not None:
                cache.fill(paths[done:wanted], size, progress=progress)
            for video in paths[done:wanted]:
                done += 1
                if progress and cache is None:
                    print(f"{argument}: reading {done}/{len(paths)} {video.name}", file=sys.stderr)
                intake.add(video)
        intake.check(argument, Path(path), few_shot)
        return cls(tuple(intake.clips), frames, size, flip, tuple(intake.skipped), intake.store)

    @classmethod
    def from_arrays(
        cls,
        arrays: Iterable[np.ndarray],
        names: Sequence[str] | None = None,
        *,
        frames: int,
        size: int,
        flip: bool = False,
    ) -> Domain:
        """A domain of ``(T, H, W, 3)`` uint8 RGB videos in memory, scaled like those of :meth:`open`.

        Args:
            arrays: the videos.
            names: one name per video; ``clip0``, ``clip1``, ... by default.
            frames, size, flip: as for :meth:`open`.

        Raises:
            InputError: there is no video, or one is too short, or of another shape or dtype.
        """
        _check_sizes(frames, size)
        videos = list(arrays)
        names = names if names is not None else [f"clip{index}" for index in range(len(videos))]
        if not videos or len(names) != len(videos):
            raise InputError(f"arrays must be one or more, one per name, got {len(videos)} for {len(names)} names")
        for name, video in zip(names, videos, strict=True):
            if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
                raise InputError(f"array '{name}' must be uint8 (T, H, W, 3), got {video.dtype} {video.shape}")
            if len(video) < frames:
                raise InputError(f"array '{name}' must have at least frames={frames} frames, got {len(video)}")
        store = _FrameStore(sys.maxsize)
        scaled = (store.add(fit(frame, size) for frame in video) for video in videos)
        clips = tuple(Clip(Path(name), pixels) for name, pixels in zip(names, scaled, strict=True))
        return cls(clips, frames, size, flip)

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """A random clip: float32 ``(frames, 3, size, size)`` in [-1, 1], contiguous.

        The video (each equally likely), the first frame, the crop along the longer side and the flip are uniform and
        depend on the state of ``generator`` alone, which must be on the CPU.
        """
        return to_tensor(self._random_cut(generator))

    def batch(self, generator: torch.Generator, batch_size: int, window: int | None = None) -> torch.Tensor:
        """``batch_size`` random clips: float32 ``(B, frames, 3, size, size)`` in [-1, 1].

        Args:
            window: so many frames of each clip, from one random place in all of them; by default all frames.
        """
        cuts = [self._random_cut(generator) for _ in range(batch_size)]
        if window is not None:
            first = _draw(self.frames - window + 1, generator)
            cuts = [cut[first : first + window] for cut in cuts]
        return torch.stack([to_tensor(cut) for cut in cuts])

    def _random_cut(self, generator: torch.Generator) -> np.ndarray:
        clip = self.clips[_draw(len(self.clips), generator)].frames
        length, height, width = clip.shape[:3]
        start = _draw(length - self.frames + 1, generator)
        top = _draw(height - self.size + 1, generator)
        left = _draw(width - self.size + 1, generator)
        window = self._window(clip, start, top, left)
        return window[:, :, ::-1] if self.flip and _draw(2, generator) else window

    def spread(self, count: int) -> torch.Tensor:
        """The same ``count`` clips every time, evenly over the videos: float32 ``(count, frames, 3, size, size)``.

        Places are evenly apart, as if the videos were laid end to end. Of many videos some are taken, each at some
        place. Of few videos each is taken equally often, give or take one. Frames are cropped at their middle and never
        mirrored.
        """
        clips = []
        for index in range(count):
            video, place = divmod((2 * index + 1) * len(self.clips), 2 * count)
            clip = self.clips[video].frames
            length, height, width = clip.shape[:3]
            start = (length - self.frames + 1) * place // (2 * count)
            clips.append(to_tensor(self._window(clip, start, (height - self.size) // 2, (width - self.size) // 2)))
        return torch.stack(clips)

    def _window(self, clip: np.ndarray, start: int, top: int, left: int) -> np.ndarray:
        return clip[start : start + self.frames, top : top + self.size, left : left + self.size]

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits over the names, shapes and pixels of the clips.

        A resumed run compares it to learn whether it sees the same data. Folders do not count, so data may move. It is
        computed once: each checkpoint holds it.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for clip in self.clips:
                digest.update(os.fsencode(clip.path.name) + b"\0" + clip.digest)
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint


def _check_sizes(frames: int, size: int) -> None:
    for name, value in (("frames", frames), ("size", size)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")


@dataclass
class _Intake:
    """Videos read so far for a domain, usable or not."""

    frames: int
    size: int
    store: _FrameStore
    cache: FrameCache | None
    clips: list[Clip] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    short_lengths: list[int] = field(default_factory=list)
    read: int = 0

    def add(self, video: Path) -> None:
        self.read += 1
        try:
            if self.cache is not None:
                entry = self.cache.get(video, self.size)
                clip = Clip(video, entry.frames, entry.digest)
            else:
                clip = Clip(video, self.store.add(fit(frame, self.size) for frame in read_frames(video)))
        except (CacheError, _StorageError):
            raise
        except InputError as error:
            self.skipped.append((video, str(error)))
            return
        length = len(clip.frames)
        if length < self.frames:
            self.short_lengths.append(length)
            self.skipped.append((video, f"it has {length} frames and frames={self.frames} are needed"))
            return
        self.clips.append(clip)

    def check(self, argument: str, path: Path, few_shot: int | None) -> None:
        """Raise InputError unless there are clips, as many as asked for."""
        count = len(self.clips)
        if count and count >= (few_shot or 1):
            return
        if count:
            raise InputError(f"few_shot must be at most {count}, the usable videos of {argument}, got {few_shot}")
        if self.short_lengths and len(self.short_lengths) == self.read:
            longest = f"{max(self.short_lengths)}, the length of the longest video of {argument} '{path}'"
            raise InputError(f"frames must be at most {longest}, got {self.frames}")
        reasons = "; ".join(f"{video.name}: {reason}" for video, reason in self.skipped[:_LISTED])
        more = f"; and {len(self.skipped) - _LISTED} more" if len(self.skipped) > _LISTED else ""
        raise InputError(f"{argument} '{path}' must hold a usable video, but none is: {reasons}{more}")


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _write(file: FileIO, block: bytes | bytearray) -> None:
    """Write all of block. An error of the disk is told apart from those of the video that is decoded meanwhile."""
    left = memoryview(block)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise _StorageError(
            f"decoded frames cannot be written to '{file.name}' (TMPDIR names another place): {error.strerror}"
        ) from error


class _StorageError(InputError):
    """Decoded frames cannot be stored, which is not the fault of the video."""


class _FrameStore:
    """Videos in memory up to a number of bytes in total, later ones in memory-mapped temporary files."""

    def __init__(self, budget: int) -> None:
        self._left = budget
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    def add(self, frames: Iterator[np.ndarray]) -> np.ndarray:
        """The video as a read-only ``(T, H, W, 3)`` array, after it is stored."""
        first = next(frames)
        frames = chain([first], frames)
        buffer = bytearray()
        for frame in frames:
            if len(buffer) + frame.nbytes > self._left:
                return self._spill(buffer, chain([frame], frames), first.shape)
            buffer += frame.tobytes()
        self._left -= len(buffer)
        stored = np.frombuffer(buffer, np.uint8).reshape(-1, *first.shape)
        stored.flags.writeable = False
        return stored

    def _spill(self, head: bytearray, frames: Iterable[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="rlv2v-")
        path = Path(self._folder.name, f"{self._files}.rgb")
        self._files += 1
        with path.open("wb", buffering=0) as file:
            _write(file, head)
            for frame in frames:
                _write(file, frame.tobytes())
        return np.memmap(path, np.uint8, mode="r").reshape(-1, *shape)
