"""Writing videos one frame at a time, with few frames in memory. An unfinished file never has its final name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from rlv2v_fast.data.locks import Temporary, hidden_beside, remove, remove_left_behind
from rlv2v_fast.data.video import CONTAINER_SUFFIXES, damaged, listing
from rlv2v_fast.errors import InputError

if TYPE_CHECKING:
    from av import AudioStream, Packet, VideoFrame
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream


@dataclass(frozen=True)
class _Format:
    """How one output suffix is encoded. Times of GIF and WebP are whole multiples of 1 / ``ticks`` seconds."""

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
OUTPUT_SUFFIXES = frozenset(_FORMATS)
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
    What a killed process left in the folder is removed by the next writer there.

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

    def __enter__(self) -> VideoWriter:
        remove_left_behind(self.path.parent)
        self._temporary = Temporary(self.path, folder=self._format is None)
        try:
            if self._format is None:
                self._sink = _FolderSink(self._temporary.path)
            else:
                size, place = (self.width, self.height), self._temporary.path
                self._sink = _ContainerSink(place, self._format, size, self.fps, self._audio_from, self._lossless)
        except BaseException:
            self._temporary.close()
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
            self._temporary.close()

    def _publish(self) -> None:
        if not self.path.is_dir():
            self._temporary.path.replace(self.path)
            return
        # A folder cannot be renamed onto one with files in it, so the old one steps aside first.
        old = hidden_beside(self.path)
        self.path.replace(old)
        self._temporary.path.replace(self.path)
        remove(old)


def _output_format(path: Path) -> _Format | None:
    suffix = path.suffix.lower()
    if suffix and suffix not in _FORMATS:
        raise InputError(f"output '{path}' must end in one of {listing(frozenset(_FORMATS))} or have no suffix")
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
    """Numbered PNG files in an empty folder."""

    def __init__(self, path: Path) -> None:
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
        """Write the frames that the encoder still holds, and the end of the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def close(self) -> None:
        """Close the files, finished or not."""
        import av

        if self._audio:
            self._audio.close()
        # An unfinished file is deleted, so it does not matter whether its end can be written.
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
    """The first audio track of another video, muxed in step with the pictures."""

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
            raise damaged(path, error.strerror) from error
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
        """The start time of the source's pictures, time zero of the output, in units of ``time_base``."""
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
            raise damaged(Path(self._source.name), error.strerror) from error

    def close(self) -> None:
        self._source.close()
