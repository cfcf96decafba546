"""Reading and writing videos one frame at a time.

A video is a file (``.mp4 .mov .mkv .webm .avi .gif .webp``) or a folder of ``.png``/``.jpg`` frames. Frames are
``(H, W, 3)`` uint8 RGB arrays everywhere; both directions hold only a few frames in memory.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import torch
from PIL import Image, ImageOps

from rlv2v_fast.errors import InputError

if TYPE_CHECKING:
    from av import AudioStream, Packet, VideoFrame
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

CONTAINER_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi"})
ANIMATION_SUFFIXES = frozenset({".gif", ".webp"})
FRAME_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
VIDEO_SUFFIXES = CONTAINER_SUFFIXES | ANIMATION_SUFFIXES

DEFAULT_FPS = Fraction(25)
"""Frame rate reported for a folder of frames, which records none."""

# libavformat would also sniff a renamed picture or subtitle file; only true video containers are accepted.
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
    """What a video declares about itself.

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
    """The frame pictures directly inside ``folder`` in natural order, hidden files left out."""
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
    """Convert ``(T, H, W, C)`` uint8 frames (an array or a list of frames) to float32 ``(T, C, H, W)`` in [-1, 1].

    Raises:
        InputError: the frames are not uint8 or not four-dimensional, or differ in shape.
    """
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
    """Convert ``(T, C, H, W)`` or ``(C, H, W)`` values in [-1, 1] to uint8 ``(..., H, W, C)``.

    Values are rounded to the nearest level and clamped; ``to_uint8(to_tensor(x))`` is ``x``.

    Raises:
        InputError: the tensor is not floating point, or not three- or four-dimensional.
    """
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
        raise InputError(f"video '{path}' must be a folder of frames or end in one of {_listing(VIDEO_SUFFIXES)}")
    return path


def _listing(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))


def _damaged(path: Path, reason: object) -> InputError:
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
        raise InputError(f"video '{path}' must be a folder of {_listing(FRAME_SUFFIXES)} frames, but it holds none")
    for file in files:
        try:
            with Image.open(file) as image:
                yield _rgb(ImageOps.exif_transpose(image))
        except _PILLOW_ERRORS as error:
            raise _damaged(file, error) from error


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
        raise _damaged(path, error) from error


def _count_gif_frames(file: BinaryIO) -> int:
    """Walk the blocks of a GIF and count its pictures; Pillow takes a broken block for the end of the file.

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
    """Walk the chunks of a WebP and count its pictures.

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
    """The plainest rate whose total time, rounded to ``step_ms``, is ``total_ms``: whole, NTSC, or a small fraction."""
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
        # Texts are of no use here, so a damaged one does not matter.
        with av.open(os.fspath(path), options=_STRICT, metadata_errors="replace") as container:
            if _CONTAINER_NAMES.isdisjoint(container.format.name.split(",")):
                raise _damaged(path, f"its content is {container.format.name}")
            pictures = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
            if not streams:
                raise InputError(f"video '{path}' must hold a video stream, but it holds none")
            if streams[0].codec_context is None:
                raise _damaged(path, "no decoder is known for its video stream")
            # Frame threads drop errors met while a stream ends; slice threads report each with its own packet.
            streams[0].thread_type = "SLICE"
            streams[0].codec_context.options = _STRICT
            yield container, streams[0]
    except InputError:
        raise
    except (av.FFmpegError, OSError, ValueError, ArithmeticError) as error:  # the last two from absurd values
        raise _damaged(path, getattr(error, "strerror", None) or error) from error


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
            raise _damaged(path, "it ends early")
        tally = _Tally()
        for packet in container.demux(stream):
            tally.count_packet(packet)
            for frame in packet.decode():
                tally.count_frame(frame)
                pixels = reformatter.reformat(frame, format="rgb24").to_ndarray()
                yield np.ascontiguousarray(np.rot90(pixels, _quarter_turns(frame)))
        if reason := tally.shortfall(container, stream):
            raise _damaged(path, reason)
        if tally.corrupt:
            raise _damaged(path, f"{tally.corrupt} of its packets or frames are corrupt")


def _matroska_ends_early(path: Path) -> bool:
    """Whether an MKV or WebM is shorter than its segment declares; it may hold too few frames for no other sign."""
    with path.open("rb") as file:
        file.seek(4)
        file.seek(_ebml_size(file) or 0, os.SEEK_CUR)
        if _exactly(file, 4) != b"\x18\x53\x80\x67":
            return False
        size = _ebml_size(file)
        return size is not None and file.tell() + size > path.stat().st_size


def _ebml_size(file: BinaryIO) -> int | None:
    """Read the size of a Matroska element; None where it is left open, as in live recordings."""
    first = _exactly(file, 1)
    more = 8 - first[0].bit_length()  # bytes that follow, as many as the leading zero bits
    bits = 7 * (more + 1)
    size = int.from_bytes(first + _exactly(file, more), "big") & (2**bits - 1)
    return None if size == 2**bits - 1 else size


@dataclass
class _Tally:
    """What came out of a container, to compare with what it declares."""

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
        """Say what is missing, or None. A clip trimmed by an edit list rightly has fewer packets than samples."""
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
    """When the last frame should end, or None where nothing tells (as in live recordings)."""
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


@dataclass(frozen=True)
class _Format:
    """How one output suffix is encoded; times of GIF and WebP are whole ``ticks`` of a second."""

    codec: str
    options: dict[str, str]
    audio_copied: frozenset[str] = frozenset()
    audio_encoder: str | None = None
    ticks: int | None = None
    max_fps: int | None = None
    container_options: dict[str, str] | None = None


_H264 = {"crf": "16", "preset": "medium"}
_MP4_AUDIO = frozenset({"aac", "mp3", "ac3", "alac", "opus"})
_PCM = frozenset({"pcm_s16le", "pcm_s16be", "pcm_s24le"})
_FASTSTART = {"movflags": "faststart"}
_FORMATS = {
    ".mp4": _Format("libx264", _H264, _MP4_AUDIO, "aac", container_options=_FASTSTART),
    ".mov": _Format("libx264", _H264, _MP4_AUDIO - {"opus"} | _PCM, "aac", container_options=_FASTSTART),
    ".mkv": _Format("libx264", _H264, _MP4_AUDIO | _PCM | {"vorbis", "flac"}, "aac"),
    # AVI stores no display order, so frames must not be reordered.
    ".avi": _Format("libx264", {**_H264, "bf": "0"}, frozenset({"mp3", "ac3"}) | _PCM, "libmp3lame"),
    ".webm": _Format(
        "libvpx-vp9",
        {"crf": "15", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
        frozenset({"opus", "vorbis"}),
        "libopus",
    ),
    # Browsers slow a GIF down whose pictures last less than 20 ms.
    ".gif": _Format("gif", {}, ticks=100, max_fps=50, container_options={"loop": "0"}),
    # The libwebp_anim encoder would merge equal frames and hold all of them; libwebp encodes one by one.
    ".webp": _Format("libwebp", {"quality": "95"}, ticks=1000, max_fps=1000, container_options={"loop": "0"}),
}
_BT709 = 1  # AVCOL_SPC_BT709, AVCOL_PRI_BT709 and AVCOL_TRC_BT709 share this value
_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG


class VideoWriter:
    """Write frames to a video file, or to a folder of PNG frames if ``path`` has no suffix.

    The output holds exactly the frames written, at ``fps``, and takes a few frames of memory however long it is.
    ``.mp4``, ``.mov``, ``.mkv`` and ``.avi`` are H.264, 4:2:0 where both sides are even (which every player shows)
    and 4:4:4 otherwise; ``.webm`` is VP9; ``.gif`` has one palette of 256 colours per frame. GIF times are whole
    multiples of 10 ms and WebP times of 1 ms: each frame starts at the multiple nearest to its exact time, so the
    error never adds up. A folder records no frame rate.

    Nothing appears at ``path`` before the ``with`` block ends well: frames go to a temporary file or folder beside
    it, which then takes its place. After an exception the temporary is removed and an existing target is untouched.

    Args:
        path: output file or folder; its parent must exist.
        width, height: frame size in pixels.
        fps: frames per second; at most 50 for GIF, 1000 for WebP.
        audio_from: a video whose first audio track is copied (re-encoded where the container cannot hold it), cut to
            the length of the frames; ignored if it has no audio or the output kind holds none.
        lossless: keep every pixel exactly; H.264 and WebP output only (PNG frames always do).

    Raises:
        InputError: the suffix is unknown, the parent is not a writable folder, the target folder holds other files
            than numbered frames, or a number is out of range; all before any file is made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        fps: Fraction | float,
        audio_from: str | os.PathLike[str] | None = None,
        *,
        lossless: bool = False,
    ) -> None:
        self.path = Path(path)
        self.width, self.height = width, height
        self._format = _output_format(self.path)
        self.fps = _checked_rate(fps, self.path, self._format)
        self._audio_from = Path(audio_from) if audio_from is not None else None
        self._lossless = lossless
        self._sink: _FolderSink | _ContainerSink | None = None
        if min(width, height) < 1:
            raise InputError(f"width and height must be at least 1, got {width}x{height}")
        if lossless and self._format and self._format.codec not in ("libx264", "libwebp"):
            raise InputError(f"lossless must be off for output '{self.path}', as {self.path.suffix} loses colours")
        if self._audio_from and not self._audio_from.exists():
            raise InputError(f"audio_from '{self._audio_from}' does not exist")
        _check_target(self.path)
        suffix = self.path.suffix.lower()
        self._temporary = self.path.with_name(f".{self.path.stem}.{secrets.token_hex(4)}.tmp{suffix}")

    def __enter__(self) -> VideoWriter:
        try:
            if self._format is None:
                self._sink = _FolderSink(self._temporary)
            else:
                self._sink = _ContainerSink(
                    self._temporary, self._format, (self.width, self.height), self.fps, self._audio_from, self._lossless
                )
        except BaseException:
            self._remove_temporary()
            raise
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one ``(height, width, 3)`` uint8 RGB frame.

        Raises:
            InputError: the frame has another shape or dtype.
        """
        if self._sink is None:
            raise RuntimeError("write() needs an open writer: use it inside a 'with' block")
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            expected = f"({self.height}, {self.width}, 3)"
            raise InputError(f"frame must be uint8 of shape {expected}, got {frame.dtype} {frame.shape}")
        self._sink.write(np.ascontiguousarray(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            if kind is None:
                if not sink.frames:
                    raise InputError(f"output '{self.path}' must get at least one frame, but none was written")
                sink.finish()
                self._publish()
        finally:
            sink.close()
            self._remove_temporary()

    def _publish(self) -> None:
        if not self.path.is_dir():
            os.replace(self._temporary, self.path)
            return
        # A folder cannot be renamed onto one with files in it, so the old one steps aside first.
        old = self._temporary.with_suffix(".old")
        os.replace(self.path, old)
        os.replace(self._temporary, self.path)
        shutil.rmtree(old)

    def _remove_temporary(self) -> None:
        if self._temporary.is_dir():
            shutil.rmtree(self._temporary)
        else:
            self._temporary.unlink(missing_ok=True)


def _output_format(path: Path) -> _Format | None:
    suffix = path.suffix.lower()
    if suffix and suffix not in _FORMATS:
        raise InputError(f"output '{path}' must end in one of {_listing(frozenset(_FORMATS))} or have no suffix")
    return _FORMATS[suffix] if suffix else None


def _checked_rate(fps: Fraction | float, path: Path, form: _Format | None) -> Fraction:
    rate = Fraction(fps).limit_denominator(65535) if 0 < fps < float("inf") else Fraction(0)
    if not rate:
        raise InputError(f"fps must be positive and finite, got {fps}")
    if form and form.max_fps and rate > form.max_fps:
        raise InputError(f"fps of output '{path}' must be at most {form.max_fps}, got {float(fps):g}")
    return rate


def _check_target(path: Path) -> None:
    parent = path.parent
    if not parent.is_dir():
        raise InputError(f"output '{path}' must lie in an existing folder, but '{parent}' is not one")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"output '{path}' must lie in a writable folder, but '{parent}' is not writable")
    if path.suffix and path.is_dir():
        raise InputError(f"output '{path}' must be a file, but a folder of that name exists")
    if not path.suffix and path.exists():
        if not path.is_dir():
            raise InputError(f"output '{path}' has no suffix, so it must be a folder, but a file of that name exists")
        if any(not re.fullmatch(r"\d+\.png", entry.name) for entry in path.iterdir()):
            raise InputError(f"output '{path}' must be a new folder or hold numbered PNG frames alone")


class _FolderSink:
    """Numbered PNG files in a new folder."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self._path = path
        self.frames = 0

    def write(self, frame: np.ndarray) -> None:
        Image.fromarray(frame).save(self._path / f"{self.frames:06d}.png")
        self.frames += 1

    def finish(self) -> None:
        """Do nothing: each frame is complete once written."""

    def close(self) -> None:
        """Do nothing: no file stays open."""


class _ContainerSink:
    """One encoded video stream and, where asked for and possible, one audio stream."""

    def __init__(
        self,
        path: Path,
        form: _Format,
        size: tuple[int, int],
        fps: Fraction,
        audio_from: Path | None,
        lossless: bool,
    ) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.frames = 0
        self._fps = fps
        self._timed = form.ticks is not None
        self._time_base = Fraction(1, form.ticks) if form.ticks else 1 / fps
        self._reformatter = VideoReformatter()
        self._container = av.open(os.fspath(path), "w", options=form.container_options or {})
        self._audio: _AudioTrack | None = None
        try:
            self._stream = self._add_video(form, size, lossless)
            if audio_from and form.audio_encoder and audio_from.is_file():
                self._audio = _AudioTrack.open(audio_from, self._container, form)
        except BaseException:
            self.close()
            raise

    def _add_video(self, form: _Format, size: tuple[int, int], lossless: bool) -> VideoStream:
        codec, options, pixels = form.codec, form.options, _pixel_format(form.codec, size)
        if lossless and codec == "libx264":
            codec, options, pixels = "libx264rgb", {**options, "crf": "0"}, "rgb24"
        elif lossless:
            options, pixels = {"lossless": "1"}, "bgra"
        # The muxers of GIF and WebP take their time base from the rate.
        rate = form.ticks or self._fps
        stream = cast("VideoStream", self._container.add_stream(codec, rate=rate, options=options))
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.time_base = self._time_base
        # Players guess the matrix of an untagged video from its height, so it is stated. WebP fixes its own.
        self._tagged = pixels.startswith("yuv") and codec != "libwebp"
        if self._tagged:
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED_RANGE
        return stream

    def write(self, pixels: np.ndarray) -> None:
        frame = self._picture(pixels)
        frame.time_base = self._time_base
        frame.pts = self._tick(self.frames)
        for packet in self._stream.encode(frame):
            if self._timed:
                # The muxer derives each time from the next start; only the last picture needs this.
                packet.duration = self._tick(self.frames + 1) - frame.pts
            self._container.mux(packet)
        self.frames += 1
        if self._audio:
            # In step with the pictures, or the muxer would queue one stream while it waits for the other.
            self._audio.advance(self.frames / self._fps)

    def _tick(self, index: int) -> int:
        return round(index / self._fps / self._time_base)

    def _picture(self, pixels: np.ndarray) -> VideoFrame:
        from av import VideoFrame

        if self._stream.pix_fmt == "pal8":
            # The stubs leave out that pal8 takes the indices and the palette.
            return VideoFrame.from_ndarray(cast("np.ndarray", _indexed(pixels)), format="pal8")
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        matrix = _BT709 if self._tagged else None
        return self._reformatter.reformat(frame, format=self._stream.pix_fmt, dst_colorspace=matrix)

    def finish(self) -> None:
        """Write what the encoder still holds, and the end of the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def close(self) -> None:
        """Let go of the files, finished or not."""
        import av

        if self._audio:
            self._audio.close()
        # An unfinished file is thrown away, so whether its ending can be written does not matter.
        with suppress(av.FFmpegError):
            self._container.close()


def _pixel_format(codec: str, size: tuple[int, int]) -> str:
    if codec == "gif":
        return "pal8"
    # H.264 cannot subsample an odd side; VP9 and WebP round the chroma planes up.
    odd = codec == "libx264" and (size[0] % 2 or size[1] % 2)
    return "yuv444p" if odd else "yuv420p"


def _indexed(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour indices ``(H, W)`` and a palette ``(256, 4)`` of alpha, red, green, blue, without dithering."""
    image = Image.fromarray(pixels).quantize(256)
    colours = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    palette = np.full((256, 4), (255, 0, 0, 0), dtype=np.uint8)
    palette[: len(colours), 1:] = colours
    return np.array(image), palette


class _AudioTrack:
    """The first audio track of another video, muxed as far as the pictures have come."""

    def __init__(self, source: InputContainer, output: OutputContainer, stream: AudioStream, copy: bool) -> None:
        self._source, self._output, self._stream = source, output, stream
        self._packets = self._copied() if copy else self._encoded()
        self._pending: Packet | None = None

    @classmethod
    def open(cls, path: Path, output: OutputContainer, form: _Format) -> _AudioTrack | None:
        """Add an audio stream to ``output``, or return None if ``path`` has no audio."""
        import av

        if path.suffix.lower() not in CONTAINER_SUFFIXES:
            return None
        try:
            source = av.open(os.fspath(path))
        except av.FFmpegError as error:
            raise _damaged(path, error.strerror) from error
        if not source.streams.audio:
            source.close()
            return None
        track = source.streams.audio[0]
        copy = track.codec_context.name in form.audio_copied
        if copy:
            return cls(source, output, output.add_stream_from_template(track), copy)
        # Opus has 48 kHz alone among the usual rates.
        rate = 48000 if form.audio_encoder == "libopus" else track.codec_context.sample_rate
        stream = cast("AudioStream", output.add_stream(str(form.audio_encoder), rate=rate))
        return cls(source, output, stream, copy)

    def _offset(self, time_base: Fraction) -> int:
        """When the pictures of the source start, which is time zero of the output, in units of ``time_base``."""
        video = self._source.streams.video
        if not video or video[0].start_time is None or video[0].time_base is None:
            return 0
        return round(video[0].start_time * video[0].time_base / time_base)

    def _copied(self) -> Iterator[Packet]:
        for packet in self._source.demux(self._source.streams.audio[0]):
            if packet.pts is None or packet.dts is None:  # the empty packet that ends the stream
                continue
            shift = self._offset(packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._stream
            yield packet

    def _encoded(self) -> Iterator[Packet]:
        for frame in self._source.decode(self._source.streams.audio[0]):
            if frame.pts is not None and frame.time_base is not None:
                frame.pts -= self._offset(frame.time_base)
            yield from self._stream.encode(frame)
        yield from self._stream.encode(None)

    def advance(self, seconds: Fraction) -> None:
        """Mux every packet that starts before ``seconds``."""
        import av

        try:
            while packet := self._pending or next(self._packets, None):
                if (packet.pts or 0) * packet.time_base >= seconds:
                    self._pending = packet
                    return
                self._pending = None
                self._output.mux(packet)
        except av.FFmpegError as error:
            raise _damaged(Path(self._source.name), error.strerror) from error

    def close(self) -> None:
        self._source.close()
