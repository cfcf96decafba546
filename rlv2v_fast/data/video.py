"""Reading videos one frame at a time, and frames as tensors.

A video is a file (``.mp4 .mov .mkv .webm .avi .gif .webp``) or a folder of ``.png``/``.jpg`` frames. Frames are
``(H, W, 3)`` uint8 RGB arrays everywhere; both directions hold only a few frames in memory.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from rlv2v_fast.errors import InputError

if TYPE_CHECKING:
    import torch
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

CONTAINER_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi"})
ANIMATION_SUFFIXES = frozenset({".gif", ".webp"})
FRAME_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
VIDEO_SUFFIXES = CONTAINER_SUFFIXES | ANIMATION_SUFFIXES

DEFAULT_FPS = Fraction(25)
"""Frame rate reported for a folder of frames, which records none."""

# libavformat also recognizes a renamed picture or subtitle file. Only video containers are accepted.
_CONTAINER_NAMES = frozenset({"mov", "mp4", "matroska", "webm", "avi"})
_STRICT = {"err_detect": "crccheck+explode"}
_PILLOW_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class VideoInfo:
    """The properties that a video declares.

    ``width`` and ``height`` are in pixels as shown (rotation applied), ``fps`` in frames per second, ``frames`` is
    None where the container does not say (WebM, MKV).
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    has_audio: bool


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which ``frame2`` comes before ``frame10``."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def frame_files(folder: Path) -> list[Path]:
    """The picture files directly inside ``folder``, in natural order, without hidden files."""
    files = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    frames = [entry for entry in files if entry.suffix.lower() in FRAME_SUFFIXES and entry.is_file()]
    return sorted(frames, key=lambda entry: natural_key(entry.name))


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, frame rate, frame count and presence of audio of the video at ``path``.

    Containers are opened and their first frame decoded; a GIF or WebP is scanned to its end, as only the sum of its
    frame times gives a rate. The rate of those two is the simplest one that their rounded times agree with.

    Raises:
        InputError: the video is missing, not a video, or damaged where it was looked at.
    """
    path = _existing(path)
    if path.is_dir():
        files = frame_files(path)
        height, width = next(_read_folder(path)).shape[:2]
        return VideoInfo(width, height, DEFAULT_FPS, len(files), False)
    if path.suffix.lower() in ANIMATION_SUFFIXES:
        return _probe_animation(path)
    return _probe_container(path)


def read_frames(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Yield every frame of the video at ``path`` as a new ``(H, W, 3)`` uint8 RGB array.

    Frames come in the order shown, with rotation metadata (in multiples of 90 degrees) applied and transparency
    composited on black; pixels are taken as square. Errors surface while iterating, so a damaged file can yield good
    frames before it raises: use what was read only once the iteration has ended.

    Detected damage: a truncated file, data that the decoder reports as invalid or conceals, and a number of frames
    (or, for WebM and MKV, a length in time) other than the container declares. Not detected: changed bits that still
    decode to a picture. None of the video formats carries a checksum of its pictures, so a single flipped bit (H.264
    finds about half of them, ten nearly always) or even several (in VP9, GIF and WebP, which check next to nothing)
    may pass as different pixels; in PNG frames it cannot. Pillow holds the compressed bytes of a WebP file whole.

    Raises:
        InputError: the video is missing, of no known kind, has no video stream or no frames, changes its frame size,
            or is damaged.
    """
    path = _existing(path)
    if path.is_dir():
        frames = _read_folder(path)
    elif path.suffix.lower() in ANIMATION_SUFFIXES:
        frames = (_rgb(image) for image, _ in _animation_images(path))
    else:
        frames = _read_container(path)
    shape = None
    for frame in frames:
        shape = shape or frame.shape
        if frame.shape != shape:
            sizes = f"from {shape[1]}x{shape[0]} to {frame.shape[1]}x{frame.shape[0]}"
            raise InputError(f"video '{path}' must keep one frame size, but it changes {sizes}")
        yield frame
    if shape is None:
        raise InputError(f"video '{path}' must hold at least one frame, but it holds none")


def to_tensor(frames: np.ndarray | Sequence[np.ndarray]) -> torch.Tensor:
    """``(T, H, W, C)`` uint8 frames (an array or a list of frames) as float32 ``(T, C, H, W)`` in [-1, 1].

    Raises:
        InputError: the frames are not uint8 or not four-dimensional, or differ in shape.
    """
    import torch  # here, because processes that decode videos start faster without

    if not isinstance(frames, np.ndarray):
        if len({frame.shape for frame in frames}) != 1:
            raise InputError("frames must be a non-empty list of arrays of one shape")
        frames = np.stack(list(frames))
    if frames.dtype != np.uint8 or frames.ndim != 4:
        raise InputError(f"frames must be uint8 of shape (T, H, W, C), got {frames.dtype} {frames.shape}")
    # The transposed copy is writable and contiguous, whatever view or read-only map was given.
    channels_first = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())
    return channels_first.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(video: torch.Tensor) -> np.ndarray:
    """``(T, C, H, W)`` or ``(C, H, W)`` values in [-1, 1] as uint8 ``(..., H, W, C)``.

    Values are rounded to the nearest level and clamped; ``to_uint8(to_tensor(x))`` is ``x``.

    Raises:
        InputError: the tensor is not floating point, or not three- or four-dimensional.
    """
    import torch

    if not video.is_floating_point() or video.dim() not in (3, 4):
        shape = tuple(video.shape)
        raise InputError(f"video must be floating point of shape (T, C, H, W) or (C, H, W), got {video.dtype} {shape}")
    levels = video.detach().to("cpu", torch.float32).add(1.0).mul_(127.5).round_().clamp_(0, 255)
    return levels.to(torch.uint8).movedim(-3, -1).contiguous().numpy()


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.exists():
        raise InputError(f"video '{path}' does not exist")
    if path.is_file() and path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(f"video '{path}' must be a folder of frames or end in one of {listing(VIDEO_SUFFIXES)}")
    return path


def listing(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))


def damaged(path: Path, reason: object) -> InputError:
    first_line = (str(reason) or "it ends early").splitlines()[0]
    return InputError(f"video '{path}' is damaged or not a video: {first_line}")


def _rgb(image: Image.Image) -> np.ndarray:
    """RGB pixels of a Pillow picture, transparency composited on black."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    if image.mode.startswith("I"):  # 16-bit gray, which convert() would clip instead of scale
        gray = (np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    colour = image.convert("RGBA")
    black = Image.new("RGBA", colour.size, (0, 0, 0, 255))
    return np.array(Image.alpha_composite(black, colour).convert("RGB"))


def _read_folder(path: Path) -> Iterator[np.ndarray]:
    files = frame_files(path)
    if not files:
        raise InputError(f"video '{path}' must be a folder of {listing(FRAME_SUFFIXES)} frames, but it holds none")
    for file in files:
        try:
            with Image.open(file) as image:
                yield _rgb(ImageOps.exif_transpose(image))
        except _PILLOW_ERRORS as error:
            raise damaged(file, error) from error


def _animation_images(path: Path) -> Iterator[tuple[Image.Image, int]]:
    """Yield each picture of a GIF or WebP with its time in milliseconds."""
    try:
        with path.open("rb") as file:
            declared = (_count_gif_frames if path.suffix.lower() == ".gif" else _count_webp_frames)(file)
        with Image.open(path, formats=["GIF", "WEBP"]) as image:
            for index in range(declared):
                image.seek(index)
                image.load()
                yield image, int(image.info.get("duration", 0))
    except _PILLOW_ERRORS as error:
        raise damaged(path, error) from error


def _count_gif_frames(file: BinaryIO) -> int:
    """The number of pictures in the blocks of a GIF. Pillow takes a broken block for the end of the file.

    Raises:
        ValueError: the blocks do not run on to the trailer.
    """
    header = _exactly(file, 13)
    if header[:6] not in (b"GIF87a", b"GIF89a"):
        raise ValueError("it has no GIF header")
    _skip_palette(file, header[10])
    frames = 0
    while (kind := _exactly(file, 1)) != b";":
        if kind == b",":
            frames += 1
            _skip_palette(file, _exactly(file, 9)[8])
        elif kind != b"!":
            raise ValueError(f"unknown GIF block {kind.hex()}")
        _exactly(file, 1)  # the LZW code size of a picture, the label of an extension
        while size := _exactly(file, 1)[0]:
            _exactly(file, size)
    return frames


def _skip_palette(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        _exactly(file, 3 * 2 ** ((flags & 7) + 1))


def _count_webp_frames(file: BinaryIO) -> int:
    """The number of pictures in the chunks of a WebP.

    Raises:
        ValueError: the chunks do not fill the size that the header declares.
    """
    riff, left, kind = struct.unpack("<4sI4s", _exactly(file, 12))
    if riff != b"RIFF" or kind != b"WEBP":
        raise ValueError("it has no WebP header")
    left -= 4
    kinds = []
    while left > 0:
        kind, size = struct.unpack("<4sI", _exactly(file, 8))
        size += size % 2
        if size + 8 > left:
            raise ValueError("a WebP chunk runs past the end")
        _exactly(file, size)
        kinds.append(kind)
        left -= 8 + size
    return kinds.count(b"ANMF") or 1


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it ends early")
    return data


def _probe_animation(path: Path) -> VideoInfo:
    # Browsers show a picture with no time for 100 ms.
    frames, total, size = 0, 0, (0, 0)
    for image, duration in _animation_images(path):
        frames, total, size = frames + 1, total + (duration or 100), image.size
    if not frames:
        raise InputError(f"video '{path}' must hold at least one frame, but it holds none")
    step = 10 if path.suffix.lower() == ".gif" else 1
    return VideoInfo(*size, _simplest_rate(frames, total, step), frames, False)


def _simplest_rate(frames: int, total_ms: int, step_ms: int) -> Fraction:
    """The simplest rate (whole, NTSC or a small fraction) whose total time rounds to ``total_ms`` in ``step_ms``."""
    exact = Fraction(1000 * frames, total_ms)
    ntsc = Fraction(1000, 1001)
    units = [Fraction(1), ntsc, *(Fraction(1, denominator) for denominator in range(2, 1001))]
    for rate in (round(exact / unit) * unit for unit in units):
        if rate and abs(1000 * frames / rate - total_ms) * 2 <= step_ms:
            return rate
    return exact


@contextmanager
def _open_container(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a container and its first video stream; libav errors inside the block become InputError."""
    import av

    try:
        # Metadata texts are not used, so damaged ones do not matter.
        with av.open(os.fspath(path), options=_STRICT, metadata_errors="replace") as container:
            if _CONTAINER_NAMES.isdisjoint(container.format.name.split(",")):
                raise damaged(path, f"its content is {container.format.name}")
            pictures = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
            if not streams:
                raise InputError(f"video '{path}' must hold a video stream, but it holds none")
            if streams[0].codec_context is None:
                raise damaged(path, "no decoder is known for its video stream")
            # Frame threads drop errors met while a stream ends; slice threads report each with its own packet.
            streams[0].thread_type = "SLICE"
            streams[0].codec_context.options = _STRICT
            yield container, streams[0]
    except InputError:
        raise
    except (av.FFmpegError, OSError, ValueError, ArithmeticError) as error:  # absurd values cause the last two
        raise damaged(path, getattr(error, "strerror", None) or error) from error


def _probe_container(path: Path) -> VideoInfo:
    with _open_container(path) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise InputError(f"video '{path}' must hold at least one frame, but it holds none")
        sideways = _quarter_turns(frame) % 2
        width, height = (frame.height, frame.width) if sideways else (frame.width, frame.height)
        return VideoInfo(width, height, _rate(stream), stream.frames or None, bool(container.streams.audio))


def _rate(stream: VideoStream) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)


def _quarter_turns(frame: VideoFrame) -> int:
    return round(getattr(frame, "rotation", 0) / 90)


def _read_container(path: Path) -> Iterator[np.ndarray]:
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    with _open_container(path) as (container, stream):
        if "matroska" in container.format.name and _matroska_ends_early(path):
            raise damaged(path, "it ends early")
        tally = _Tally()
        for packet in container.demux(stream):
            tally.count_packet(packet)
            for frame in packet.decode():
                tally.count_frame(frame)
                pixels = reformatter.reformat(frame, format="rgb24").to_ndarray()
                yield np.ascontiguousarray(np.rot90(pixels, _quarter_turns(frame)))
        if reason := tally.shortfall(container, stream):
            raise damaged(path, reason)
        if tally.corrupt:
            raise damaged(path, f"{tally.corrupt} of its packets or frames are corrupt")


def _matroska_ends_early(path: Path) -> bool:
    """Whether an MKV or WebM is shorter than its segment declares, which may be the only sign of missing frames."""
    with path.open("rb") as file:
        file.seek(4)
        file.seek(_ebml_size(file) or 0, os.SEEK_CUR)
        if _exactly(file, 4) != b"\x18\x53\x80\x67":
            return False
        size = _ebml_size(file)
        return size is not None and file.tell() + size > path.stat().st_size


def _ebml_size(file: BinaryIO) -> int | None:
    """The size of a Matroska element; None where it is left open, as in live recordings."""
    first = _exactly(file, 1)
    more = 8 - first[0].bit_length()  # bytes that follow, as many as the leading zero bits
    bits = 7 * (more + 1)
    size = int.from_bytes(first + _exactly(file, more), "big") & (2**bits - 1)
    return None if size == 2**bits - 1 else size


@dataclass
class _Tally:
    """Counts of what a container held, for comparison with what it declares."""

    packets: int = 0
    discarded: int = 0
    shown: int = 0
    corrupt: int = 0
    end: int = 0

    def count_packet(self, packet: Packet) -> None:
        self.packets += packet.size > 0
        self.discarded += packet.is_discard
        self.corrupt += packet.is_corrupt

    def count_frame(self, frame: VideoFrame) -> None:
        self.shown += 1
        self.corrupt += frame.is_corrupt
        self.end = max(self.end, (frame.pts or 0) + (frame.duration or 0))

    def shortfall(self, container: InputContainer, stream: VideoStream) -> str | None:
        """A text that says what is missing, or None. A clip trimmed by an edit list has fewer packets than samples."""
        if self.packets == stream.frames:
            missing = stream.frames - self.discarded - self.shown
            return f"it declares {stream.frames} frames but {missing} of them are missing" if missing else None
        declared = _declared_seconds(container, stream)
        covered = self.end * stream.time_base if stream.time_base else Fraction(0)
        # Containers round times to milliseconds; one missing frame is more than half a frame.
        if declared is None or covered >= declared - 1 / (2 * _rate(stream)):
            return None
        return f"it declares {float(declared):.2f} s but holds {float(covered):.2f} s"


def _declared_seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """The time at which the last frame should end; None where nothing declares it (as in live recordings)."""
    if stream.duration and stream.time_base:
        return ((stream.start_time or 0) + stream.duration) * stream.time_base
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        hours, minutes, seconds = (Fraction(part) for part in tag.groups())
        return hours * 3600 + minutes * 60 + seconds
    # The length of the whole file may be that of a longer audio track.
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, 1_000_000)
    return None
