"""Writing videos one frame at a time, with few frames in memory. An unfinished file never has its final name."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from rlv2v_fast.data.colour import BT709, LIMITED_RANGE
from rlv2v_fast.data.info import VideoInfo
from rlv2v_fast.data.locks import Temporary, hidden_beside, remove, remove_left_behind
from rlv2v_fast.data.names import USUAL_VIDEOS, libav_name
from rlv2v_fast.data.timing import is_nearer, place, resampling_rate
from rlv2v_fast.data.tracks import Holds, Tracks, say, say_left_out
from rlv2v_fast.errors import InputError
from rlv2v_fast.files import check_writable, written

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.video.stream import VideoStream


@dataclass(frozen=True)
class _Format:
    """How one output suffix is encoded.

    Attributes:
        container: the muxer.
        ticks: times are whole multiples of 1 / ``ticks`` seconds; None where the unit is chosen for each file.
        apart: ticks between two frames at least.
        constant: whether all frames are equally far apart in time.
        from_ticks: whether the muxer takes its unit of time from the rate that is declared to the encoder.
        shapes: whether pixels that are not square can be told.
        side: the largest width or height.
    """

    container: str
    codec: str
    options: dict[str, str]
    holds: Holds = field(default_factory=Holds)
    ticks: int | None = None
    apart: int = 1
    constant: bool = False
    from_ticks: bool = False
    shapes: bool = True
    side: int = 16384
    container_options: dict[str, str] | None = None

    @property
    def max_fps(self) -> int | None:
        return self.ticks // self.apart if self.from_ticks and self.ticks else None


# Without pictures that are coded out of order, the time of each is stored as it is, and so is the end of the last.
_H264 = {"crf": "16", "preset": "medium", "bf": "0"}
_MP4_AUDIO = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus"})
_PCM = frozenset({"pcm_s16le", "pcm_s16be", "pcm_s24le"})
_FASTSTART = {"movflags": "faststart"}
_MP4_HOLDS = Holds(_MP4_AUDIO, "aac", frozenset({"mov_text"}), "mov_text", "stream", chapters=True)
_MOV_HOLDS = Holds(_MP4_AUDIO - {"opus"} | _PCM, "aac", frozenset({"mov_text"}), "mov_text", chapters=True)
_MKV_HOLDS = Holds(
    _MP4_AUDIO | _PCM | {"vorbis", "flac", "dts", "truehd", "mp2", "wavpack", "tta", "pcm_f32le"},
    "aac",
    frozenset({"subrip", "ass", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"}),
    "subrip",
    "file",
    chapters=True,
    attachments=True,
)
_AVI_HOLDS = Holds(frozenset({"mp3", "ac3"}) | _PCM, "libmp3lame", timeless=True)
_WEBM_HOLDS = Holds(frozenset({"opus", "vorbis"}), "libopus", frozenset({"webvtt"}), "webvtt", chapters=True)
_VP9 = {"crf": "15", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
_MP4 = _Format("mp4", "libx264", _H264, _MP4_HOLDS, container_options=_FASTSTART)
_FORMATS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": _Format("mov", "libx264", _H264, _MOV_HOLDS, container_options=_FASTSTART),
    ".mkv": _Format("matroska", "libx264", _H264, _MKV_HOLDS, ticks=1000),
    ".avi": _Format("avi", "libx264", _H264, _AVI_HOLDS, constant=True),
    ".webm": _Format("webm", "libvpx-vp9", _VP9, _WEBM_HOLDS, ticks=1000, shapes=False),
    # Browsers slow a GIF down whose pictures last less than 20 ms. The encoder would leave out what equals the picture
    # before, for which it compares indices of colours, even of two palettes.
    ".gif": _Format(
        "gif",
        "gif",
        {"gifflags": "0"},
        ticks=100,
        apart=2,
        from_ticks=True,
        shapes=False,
    ),
    # The libwebp_anim encoder would merge equal frames and hold all of them; libwebp encodes one by one.
    ".webp": _Format(
        "webp",
        "libwebp",
        {"quality": "95"},
        ticks=1000,
        from_ticks=True,
        shapes=False,
        side=16383,
    ),
}
OUTPUT_SUFFIXES = frozenset(_FORMATS)
# Name of an encoder's option for how many frames it looks ahead, and its default. It holds them, so large frames have
# fewer: 1920x1080 took 400 MB with the default of H.264, and takes 200 with 10 frames.
_LOOKAHEAD = {"libx264": ("rc-lookahead", 40), "libx264rgb": ("rc-lookahead", 40), "libvpx-vp9": ("lag-in-frames", 25)}
_LEAST_LOOKAHEAD, _PIXELS_AHEAD = 5, 2**24 * 5 // 4


@dataclass(frozen=True)
class Pace:
    """The rate of an output in frames per second, and whether all of its frames are equally far apart."""

    fps: Fraction
    constant: bool


def pace(path: Path, info: VideoInfo, fps: Fraction | None = None) -> Pace:
    """How fast an output shows a source: each frame at its own time where the kind of output can, unless fps is given.

    Args:
        path: the output.
        info: of the source.
        fps: frames per second that the user asked for.
    """
    form = _output_format(path)
    fastest = form.max_fps if form else None
    if fps is not None:
        return Pace(fps, constant=True)
    if fastest is not None and info.fps > fastest:
        return Pace(Fraction(fastest), constant=True)
    if form is None or form.constant:
        varies = info.finest is not None and info.finest != info.fps
        return Pace(resampling_rate(info.fps, info.finest) if varies else info.fps, constant=True)
    return Pace(info.fps, constant=False)


class VideoWriter:
    """Write frames to a video file, or to a folder of PNG frames if ``path`` has no suffix.

    The output holds the frames written, at ``fps`` or at the time given with each, and takes a few frames of memory
    however long it is. ``.mp4``, ``.m4v``, ``.mov``, ``.mkv`` and ``.avi`` are H.264, 4:2:0 where both sides are even
    (which every player shows) and 4:4:4 otherwise; ``.webm`` is VP9; ``.gif`` has one palette of 256 colours per frame.
    Times are whole multiples of 10 ms in GIF and of 1 ms in WebP, WebM and MKV: each frame starts at the multiple
    nearest to its exact time, so the error never adds up. A folder records no frame rate.

    Nothing appears at ``path`` before the ``with`` block ends well: frames go to a temporary file or folder beside
    it, which then takes its place. After an exception the temporary is removed and an existing target is untouched.
    What a killed process left in the folder is removed by the next writer there.

    Args:
        path: output file or folder; its parent must exist. Where it is a link, what it leads to is written.
        width, height: frame size in pixels.
        fps: frames per second; at most 50 for GIF, 1000 for WebP. Where times are given it is the mean.
        audio_from: a video whose audio tracks are copied (re-encoded where the container cannot hold them), cut to
            the length of the frames; ignored if it has no audio or the output kind holds none.
        lossless: keep every pixel exactly; H.264 and WebP output only (PNG frames always do).
        like: what :func:`probe` says of ``audio_from``. The output then is like that video in all that is not pixels:
            its shape of pixels and colour tags, all of its audio, subtitles, chapters, cover and texts, to their end.
            What the output cannot hold is told by a MediaWarning.
        constant: whether all frames are 1 / ``fps`` apart, and those written are repeated and left out to fit. AVI and
            folders always are so.

    Raises:
        InputError: the suffix is unknown, the parent is not a writable folder, the target folder holds other files
            than numbered frames, the target is the source, an encoder is missing, or a number is out of range; all
            before any file is made.
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
        like: VideoInfo | None = None,
        constant: bool = False,
    ) -> None:
        self.path = Path(path)
        self.width, self.height = width, height
        self._format = _output_format(self.path)
        self.fps = _checked_rate(fps, self.path, self._format)
        self._audio_from = Path(audio_from) if audio_from is not None else None
        self._lossless, self._like = lossless, like
        self._constant = constant or self._format is None or self._format.constant
        self._sink: _FolderSink | _ContainerSink | None = None
        if min(width, height) < 1:
            raise InputError(f"width and height must be at least 1, got {width}x{height}")
        if self._format and max(width, height) > self._format.side:
            most = f"at most {self._format.side} for output '{self.path}'"
            raise InputError(f"width and height must be {most}, got {width}x{height}")
        if lossless and self._format and self._format.codec not in ("libx264", "libwebp"):
            raise InputError(f"lossless must be off for output '{self.path}', as {self.path.suffix} loses colours")
        if self._audio_from and not self._audio_from.exists():
            raise InputError(f"audio_from '{self._audio_from}' does not exist")
        check_target(self.path, self._audio_from)
        _check_encoder(self.path, self._format, lossless)
        self._target = Path(os.path.realpath(self.path))
        self._count = 0
        self._schedule: _Schedule | None = None

    def __enter__(self) -> VideoWriter:
        self._say_what_is_lost()
        remove_left_behind(self._target.parent)
        with _errors_of(self.path):
            self._temporary = Temporary(self._target, folder=self._format is None)
            try:
                if self._format is None:
                    self._sink = _FolderSink(self._temporary.path)
                else:
                    made = self._temporary.path
                    self._sink = _ContainerSink(made, self._format, self._settings(), self._audio_from, self._lossless)
            except BaseException:
                self._temporary.close()
                raise
        if self._constant:
            self._schedule = _Constant(self._sink, self.fps)
        else:
            assert self._format is not None
            assert isinstance(self._sink, _ContainerSink)
            self._schedule = _Variable(self._sink, self._format.apart)
        return self

    def _say_what_is_lost(self) -> None:
        if self._like is None:
            return
        kind = self.path.suffix.lower() or "a folder"
        if self._audio_from and (self._format is None or self._format.holds == Holds()):
            say_left_out(self._audio_from, kind)
        aspect = self._like.aspect
        if aspect != 1 and (self._format is None or not self._format.shapes):
            shape = f"{aspect.numerator}:{aspect.denominator}"
            say(self.path, f"its pixels are square, as {kind} knows no others; those of the source are {shape}")

    def _settings(self) -> _Settings:
        assert self._format is not None
        like = self._like or VideoInfo(self.width, self.height, self.fps, None, False)
        if self._constant:
            unit = 1 / self.fps
        elif self._format.ticks:
            unit = Fraction(1, self._format.ticks)
        else:
            unit = _unit(self.fps, like.tick)
        tags = (like.primaries, like.transfer)
        whole, start = self._like is not None, self._like.start if self._like else None
        return _Settings(self.width, self.height, self.fps, unit, like.aspect, tags, whole, start, like.plays)

    def write(self, frame: np.ndarray, start: Fraction | None = None, duration: Fraction | None = None) -> None:
        """Append one ``(height, width, 3)`` uint8 RGB frame.

        Args:
            start: the time of the frame in seconds from the first one, after that of the frame before; by default its
                number divided by the rate.
            duration: for how long it is shown, in seconds, unless another frame ends that; by default that of a frame
                at the rate.

        Raises:
            InputError: the frame has another shape or dtype, or the output cannot be written.
        """
        if self._sink is None or self._schedule is None:
            raise RuntimeError("write() needs an open writer: use it inside a 'with' block")
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            expected = f"({self.height}, {self.width}, 3)"
            raise InputError(f"frame must be uint8 of shape {expected}, got {frame.dtype} {frame.shape}")
        start = self._count / self.fps if start is None else start
        self._count += 1
        with _errors_of(self.path):
            self._schedule.add(np.ascontiguousarray(frame), start, duration or 1 / self.fps)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sink, self._sink, schedule = self._sink, None, self._schedule
        if sink is None or schedule is None:
            return
        try:
            if kind is None:
                if not self._count:
                    raise InputError(f"output '{self.path}' must get at least one frame, but none was written")
                with _errors_of(self.path):
                    schedule.finish()
                    sink.finish()
                    self._publish()
        finally:
            sink.close()
            self._temporary.close()

    @property
    def resampled(self) -> tuple[int, int]:
        """How many frames were repeated and how many left out so far, to keep time at a constant rate."""
        return self._schedule.resampled if self._schedule else (0, 0)

    def _publish(self) -> None:
        made = self._temporary.path
        if not self._target.is_dir():
            if made.is_file():
                with made.open("rb") as file:
                    os.fsync(file.fileno())  # a disk may say only now that it is full
            made.replace(self._target)
            return
        # A folder cannot be renamed onto one with files in it, so the old one steps aside first.
        old = hidden_beside(self._target)
        self._target.replace(old)
        made.replace(self._target)
        remove(old)


def _output_format(path: Path) -> _Format | None:
    suffix = path.suffix.lower()
    if suffix and suffix not in _FORMATS:
        raise InputError(f"output '{path}' must end in one of {USUAL_VIDEOS} or have no suffix")
    return _FORMATS[suffix] if suffix else None


def _checked_rate(fps: Fraction | float, path: Path, form: _Format | None) -> Fraction:
    rate = Fraction(fps).limit_denominator(65535) if 0 < fps < float("inf") else Fraction(0)
    if not rate:
        raise InputError(f"fps must be positive and finite, got {fps}")
    if form and form.max_fps and rate > form.max_fps:
        raise InputError(f"fps of output '{path}' must be at most {form.max_fps}, got {float(fps):g}")
    return rate


def check_target(path: Path, source: Path | None = None, *, overwrite: bool = True) -> None:
    """Raise InputError where it is known before any work that an output cannot be written, or must not be.

    Args:
        path: the output, of a known kind.
        source: what is read meanwhile; it is never replaced, by whatever name.
        overwrite: whether an existing output may be replaced.
    """
    _output_format(path)
    with written(f"output '{path}'"):
        target, parent = Path(os.path.realpath(path)), Path(os.path.realpath(path)).parent
        if not parent.is_dir():
            raise InputError(f"output '{path}' must lie in an existing folder, but '{parent}' is not one")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"output '{path}' must lie in a writable folder, but '{parent}' is not writable")
        if source is not None and path.exists() and source.exists() and path.samefile(source):
            raise InputError(f"output '{path}' must not be the input '{source}' itself, which it would replace")
        if path.suffix and path.is_dir():
            raise InputError(f"output '{path}' must be a file, but a folder of that name exists")
        if not path.suffix and path.exists():
            if not path.is_dir():
                raise InputError(
                    f"output '{path}' has no suffix, so it must be a folder, but a file of that name exists"
                )
            if any(not re.fullmatch(r"\d+\.png", entry.name) for entry in path.iterdir()):
                raise InputError(f"output '{path}' must be a new folder or hold numbered PNG frames alone")
        empty = path.is_dir() and not any(path.iterdir())
        if not overwrite and path.exists() and not empty:
            raise InputError(f"output '{path}' exists already; pass --overwrite to replace it")
        if not target.is_dir():
            check_writable(target, f"output '{path}'")


def _check_encoder(path: Path, form: _Format | None, lossless: bool) -> None:
    if form is None:
        return
    import av

    name = "libx264rgb" if lossless and form.codec == "libx264" else form.codec
    if name not in av.codecs_available:
        raise InputError(
            f"output '{path}' needs the encoder {name}, which this build of PyAV lacks; try another suffix"
        )


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Errors of the system and of libav inside the block are the output's."""
    import av

    with written(f"output '{path}'"):
        try:
            yield
        except InputError:
            raise
        except (av.FFmpegError, av.codec.codec.UnknownCodecError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"output '{path}' cannot be written: {reason}") from error


def _unit(fps: Fraction, tick: Fraction | None) -> Fraction:
    """A unit of time of which the source's ticks and the frames of its rate are multiples, where there is one.

    Otherwise it is the source's tick, which its times are multiples of.
    """
    ticks = tick.denominator if tick is not None and tick.numerator == 1 else 1
    both = math.lcm(fps.numerator, ticks)
    if both > 1_000_000:
        both = ticks if ticks > 1 else fps.numerator
    return Fraction(1, both * math.ceil(10_000 / both))


class _Schedule:
    """Gives a sink frames at whole multiples of its unit of time."""

    resampled = (0, 0)

    def add(self, frame: np.ndarray, start: Fraction, duration: Fraction) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError


class _Variable(_Schedule):
    """Each frame at the multiple nearest to its time, at least ``apart`` units after the one before."""

    def __init__(self, sink: _ContainerSink, apart: int) -> None:
        self._sink, self._apart = sink, apart
        self._next = 0

    def add(self, frame: np.ndarray, start: Fraction, duration: Fraction) -> None:
        start += self._sink.lead
        begin = max(place(start, self._sink.rate), self._next)
        self._next = begin + self._apart
        self._sink.write(frame, begin, max(place(start + duration, self._sink.rate), self._next))

    def finish(self) -> None:
        """Do nothing: each frame is written at once."""


class _Constant(_Schedule):
    """At each multiple of 1 / ``fps`` one frame, as data.timing.at_rate chooses: frames are repeated or left out."""

    def __init__(self, sink: _FolderSink | _ContainerSink, fps: Fraction) -> None:
        self._sink, self._fps = sink, fps
        self._held: np.ndarray | None = None
        self._start = Fraction(0)
        self._written = self._end = 0
        self._repeated = self._dropped = 0

    @property
    def resampled(self) -> tuple[int, int]:  # type: ignore[override]
        return self._repeated, self._dropped

    def add(self, frame: np.ndarray, start: Fraction, duration: Fraction) -> None:
        start += self._sink.lead
        self._end = place(start + duration, self._fps)
        if self._held is not None:
            if place(start, self._fps) == place(self._start, self._fps):
                self._dropped += 1
                if is_nearer(self._start, start, self._fps):
                    return
            else:
                self._show_until(place(start, self._fps))
        # The caller may write the next frame into the same memory.
        self._held, self._start = frame.copy(), start

    def _show_until(self, end: int) -> None:
        assert self._held is not None
        for index in range(self._written, end):
            self._sink.write(self._held, index, index + 1)
        self._repeated += max(end - self._written - 1, 0)
        self._dropped += end <= self._written
        self._written = max(end, self._written)

    def finish(self) -> None:
        self._show_until(max(self._end, 1))


class _FolderSink:
    """Numbered PNG files in an empty folder."""

    lead = Fraction(0)

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, frame: np.ndarray, begin: int, end: int) -> None:
        """Write the frame with number begin."""
        Image.fromarray(frame).save(self._path / f"{begin:06d}.png")

    def finish(self) -> None:
        """Do nothing: each frame is complete once written."""

    def close(self) -> None:
        """Do nothing: no file stays open."""


@dataclass(frozen=True)
class _Settings:
    """What an output is like. ``unit`` is that of its times, in seconds; ``tags`` are primaries and transfer function.

    ``whole`` says whether all of its source goes along, whose first picture is at ``start`` on its clock.
    """

    width: int
    height: int
    fps: Fraction
    unit: Fraction
    aspect: Fraction
    tags: tuple[int, int]
    whole: bool
    start: Fraction | None
    plays: int


class _ContainerSink:
    """One encoded video stream, and the tracks of a source where asked for and possible."""

    def __init__(self, path: Path, form: _Format, settings: _Settings, audio_from: Path | None, lossless: bool) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._settings, self._unit = settings, settings.unit
        self.rate = 1 / settings.unit
        self._ends: dict[int, int] = {}
        self._reformatter = VideoReformatter()
        self._tracks: Tracks | None = None
        options = {**(form.container_options or {}), **_loop(form, settings.plays)}
        self._container = av.open(libav_name(path), "w", format=form.container, options=options)
        try:
            self._stream = self._add_video(form, lossless)
            if audio_from and form.holds != Holds():
                self._tracks = Tracks.open(
                    audio_from, self._container, form.holds, whole=settings.whole, start=settings.start
                )
            # What the encoders and the muxer refuse is known before the first frame.
            self._container.start_encoding()
        except BaseException:
            self.close()
            raise

    @property
    def lead(self) -> Fraction:
        """The time of the first frame, which is not 0 where the audio begins before it."""
        return self._tracks.lead if self._tracks else Fraction(0)

    def _add_video(self, form: _Format, lossless: bool) -> VideoStream:
        width, height = self._settings.width, self._settings.height
        codec, options, pixels = form.codec, form.options, _pixel_format(form.codec, (width, height))
        if lossless and codec == "libx264":
            codec, options, pixels = "libx264rgb", {**options, "crf": "0"}, "rgb24"
        elif lossless:
            options, pixels = {"lossless": "1"}, "bgra"
        if codec in _LOOKAHEAD:
            name, usual = _LOOKAHEAD[codec]
            ahead = max(_LEAST_LOOKAHEAD, min(usual, _PIXELS_AHEAD // (width * height)))
            options = {**options, name: str(ahead)}
        rate = form.ticks if form.from_ticks else self._settings.fps
        stream = cast("VideoStream", self._container.add_stream(codec, rate=rate, options=options))
        stream.width, stream.height = width, height
        stream.pix_fmt = pixels
        stream.codec_context.time_base = self._unit
        if self._settings.aspect != 1 and form.shapes:
            stream.codec_context.sample_aspect_ratio = self._settings.aspect
        # Players guess the matrix of an untagged video from its height, so it is stated. WebP fixes its own.
        self._tagged = pixels.startswith("yuv") and codec != "libwebp"
        if self._tagged:
            context = stream.codec_context
            context.colorspace = BT709
            context.color_primaries, context.color_trc = self._settings.tags
            context.color_range = LIMITED_RANGE
        return stream

    def write(self, pixels: np.ndarray, begin: int, end: int) -> None:
        """Append a frame that is shown from ``begin`` to ``end``, in units of time."""
        frame = self._picture(pixels)
        frame.time_base = self._unit
        frame.pts = begin
        self._ends[begin] = end
        self._mux(self._stream.encode(frame))
        if self._tracks:
            # In step with the pictures, or the muxer would queue one stream while it waits for the other.
            self._tracks.advance(end * self._unit)

    def _mux(self, packets: list[Packet]) -> None:
        for packet in packets:
            if packet.pts is not None and packet.pts in self._ends:
                packet.duration = self._ends.pop(packet.pts) - packet.pts
            self._container.mux(packet)

    def _picture(self, pixels: np.ndarray) -> VideoFrame:
        from av import VideoFrame

        if self._stream.pix_fmt == "pal8":
            # The stubs leave out that pal8 takes the indices and the palette.
            return VideoFrame.from_ndarray(cast("np.ndarray", _indexed(pixels)), format="pal8")
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        matrix = BT709 if self._tagged else None
        return self._reformatter.reformat(frame, format=self._stream.pix_fmt, dst_colorspace=matrix)

    def finish(self) -> None:
        """Write the frames that the encoder still holds, and the end of the file."""
        self._mux(self._stream.encode(None))
        if self._tracks:
            self._tracks.finish()
        self._container.close()

    def close(self) -> None:
        """Close the files, finished or not."""
        import av

        if self._tracks:
            self._tracks.close()
        # An unfinished file is deleted, so it does not matter whether its end can be written.
        with suppress(av.FFmpegError, OSError, ValueError):
            self._container.close()


def _loop(form: _Format, plays: int) -> dict[str, str]:
    """The option by which a muxer of animations takes how often they are shown; 0 for without end."""
    if form.container == "webp":
        return {"loop": str(plays)}
    if form.container == "gif":  # it counts repeats, and -1 leaves them out
        return {"loop": str(0 if not plays else -1 if plays == 1 else plays - 1)}
    return {}


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
