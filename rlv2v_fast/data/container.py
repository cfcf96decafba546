"""Reading video containers by libav: which stream, when each frame is shown, and whether all of it is there."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from rlv2v_fast.data import colour
from rlv2v_fast.data.cropping import cropping_of
from rlv2v_fast.data.info import DEFAULT_FPS, VideoInfo
from rlv2v_fast.data.names import CONTAINERS, MOST_PIXELS, check_pixels, damaged, libav_name
from rlv2v_fast.data.timing import TimedFrame, snapped
from rlv2v_fast.errors import InputError

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.buffer import Buffer
    from av.container import InputContainer
    from av.sidedata.sidedata import Type
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

# libavformat also recognizes a renamed picture or subtitle file. Only video containers are accepted.
_CONTAINER_NAMES = frozenset(CONTAINERS)
# They declare no length: what libav gives is an estimate.
_UNDECLARED = frozenset({"mpegts", "mpeg"})
# Frames per second that a video can have.
_FASTEST = 1000
_STRICT = {"err_detect": "crccheck+explode"}
# A file that is a list of addresses is refused, but only once it is opened: nothing that it names may be.
_OPENED = _STRICT | {"protocol_whitelist": "file"}
_DECODED = _STRICT | {"max_pixels": str(MOST_PIXELS)}
# Decoders that give the transparency of WebM, which libav's own leave out.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@contextmanager
def open_container(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a container and the video stream to read; libav errors inside the block become InputError."""
    import av

    try:
        # Metadata texts are not used, so damaged ones do not matter.
        with av.open(libav_name(path), options=_OPENED, metadata_errors="replace") as container:
            if _CONTAINER_NAMES.isdisjoint(container.format.name.split(",")):
                raise damaged(path, f"its content is {container.format.name}")
            streams = moving_pictures(container)
            if not streams:
                raise InputError(f"video '{path}' must hold a video stream, but it holds none")
            stream = chosen(streams)
            if stream.codec_context is None:
                raise InputError(f"video '{path}' cannot be read: no decoder is known for its video stream")
            check_pixels(f"video '{path}'", stream.width, stream.height)
            # Frame threads drop errors met while a stream ends; slice threads report each with its own packet.
            stream.thread_type = "SLICE"
            stream.codec_context.options = _DECODED
            yield container, stream
    except InputError:
        raise
    except (av.FFmpegError, OSError, ValueError, ArithmeticError) as error:  # absurd values cause the last two
        raise damaged(path, error) from error


def moving_pictures(container: InputContainer) -> list[VideoStream]:
    """The video streams of a container that are not covers, thumbnails or stills."""
    from av.stream import Disposition

    stills = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    return [stream for stream in container.streams.video if not stream.disposition & stills]


def chosen(streams: list[VideoStream]) -> VideoStream:
    """The stream that players show: the first that is marked as the default, or else the first."""
    from av.stream import Disposition

    return next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])


def probe_container(path: Path) -> VideoInfo:
    with open_container(path) as (container, stream):
        reader = _Reader(container, stream)
        first = next(reader.pictures(), None)
        if first is None:
            raise InputError(f"video '{path}' must hold at least one frame, but it holds none")
        frame, start = first
        colours = _colours(path, frame)
        sideways = _is_transposed(_matrix(frame))
        height, width = cropping_of(path, container.format.name, stream.index).size(frame.height, frame.width)
        height, width = (width, height) if sideways else (height, width)
        aspect = Fraction(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1) or Fraction(1)
        notes = colours.notes + _lost_marks(frame)
        if len(moving_pictures(container)) > 1:
            notes += (f"of its {len(moving_pictures(container))} video streams, number {stream.index} is translated",)
        return VideoInfo(
            width,
            height,
            _rate(stream),
            stream.frames or None,
            bool(container.streams.audio),
            finest=Fraction(finest) if (finest := stream.guessed_rate) and finest <= _FASTEST else None,
            tick=stream.time_base,
            start=start,
            aspect=1 / aspect if sideways else aspect,
            primaries=colours.primaries,
            transfer=colours.transfer,
            notes=notes,
        )


def _lost_marks(frame: VideoFrame) -> tuple[str, ...]:
    """What a frame carries beside its pixels that no output is given."""
    from av.sidedata.sidedata import Type

    named = {
        Type.SPHERICAL: "its mark as a 360-degree picture is left out",
        Type.STEREO3D: "its mark as a picture for two eyes is left out",
        Type.A53_CC: "its closed captions are left out",
    }
    return tuple(text for kind, text in named.items() if _side_data(frame, kind) is not None)


def _side_data(frame: VideoFrame, kind: Type) -> Buffer | None:
    from av.sidedata.sidedata import SideDataContainer

    # Not frame.side_data: that is kept in the frame and refers to it, and the frame is held until garbage is collected.
    # The stubs know neither its argument nor other side data than motion vectors.
    return cast("Mapping[Type, Buffer]", SideDataContainer(frame)).get(kind)  # type: ignore[call-arg]


def _colours(path: Path, frame: VideoFrame) -> colour.Colours:
    try:
        return colour.colours_of(frame)
    except InputError as error:
        raise InputError(f"video '{path}' cannot be read: {error}") from None


def read_container(path: Path) -> Iterator[TimedFrame]:
    """Yield every frame of a container with its time from the first one."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    with open_container(path) as (container, stream):
        is_whole = False
        if "matroska" in container.format.name and (size := _matroska_size(path)) is not None:
            if size > path.stat().st_size:
                raise damaged(path, "it ends early")
            is_whole = True
        reader, cropped = _Reader(container, stream), cropping_of(path, container.format.name, stream.index)
        rate, tick = _rate(stream), stream.time_base or Fraction(0)
        origin: Fraction | None = None
        held: tuple[np.ndarray, Fraction] | None = None
        gap = 1 / rate
        for frame, time in reader.pictures():
            if origin is None:
                origin = time
                _colours(path, frame)
            # Of two rounded times, where the first is not zero, the difference is off by up to a tick.
            start = snapped(time - origin, rate, tick if origin else tick / 2)
            if held is not None:
                start = max(start, held[1] + min(tick, 1 / rate))  # times that stand still or go back
                gap = start - held[1]
                yield TimedFrame(*held, gap)
            held = _upright(cropped(colour.rgb(frame, reformatter)), frame), start
        # Matroska keeps no duration of its last frame, which may be long.
        if not is_whole and (reason := reader.tally.shortfall(container, stream)):
            raise damaged(path, reason)
        if reader.tally.corrupt:
            raise damaged(path, f"{reader.tally.corrupt} of its packets or frames are corrupt")
        if held is not None and origin is not None:
            yield TimedFrame(*held, reader.last_duration(held[1], origin, gap))


class _Reader:
    """Decodes the pictures of a stream in the order shown, each with its time on the container's clock, in seconds."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self._decoder = _decoder(stream)
        # AVI stores no times of display: packets come in the order shown, one after the other.
        self._in_order = container.format.name == "avi"
        self._times: deque[int] = deque()
        self._shown = 0
        self._duration = 0
        self.tally = _Tally()

    def pictures(self) -> Iterator[tuple[VideoFrame, Fraction]]:
        before: int | None = None
        longest = round(1 / _rate(self._stream) / self._unit)
        for packet in self._container.demux(self._stream):
            self.tally.count_packet(packet)
            if packet.size and packet.dts is not None:
                self._times.append(packet.dts)
            for frame in cast("list[VideoFrame]", self._decoder.decode(packet if packet.size else None)):
                time = self._time(frame)
                self._duration = frame.duration or 0
                # Where the rate varies, the duration of the last frame is not told: as long as any may be right.
                longest = max(longest, time - before if before is not None else self._duration)
                self.tally.count_frame(frame, time + longest)
                before = time
                self._shown += 1
                yield frame, time * self._unit

    @property
    def _unit(self) -> Fraction:
        return self._stream.time_base or 1 / _rate(self._stream)

    def _time(self, frame: VideoFrame) -> int:
        waiting = self._times.popleft() if self._times else None
        if self._in_order and waiting is not None:
            return waiting
        if frame.pts is not None:
            return frame.pts
        return waiting if waiting is not None else round(self._shown / _rate(self._stream) / self._unit)

    def last_duration(self, start: Fraction, origin: Fraction, gap: Fraction) -> Fraction:
        """For how long the last frame is shown, start after the first at origin and gap after the one before it."""
        rate, tick = _rate(self._stream), self._unit
        end = _declared_end(self._container, self._stream)
        declared = end - origin - start if end is not None else Fraction(0)
        # Matroska keeps no duration of its last frame but the length of the whole. In MP4 both are of the order of
        # decoding, and the longer one is nearer to the truth.
        if "matroska" in self._container.format.name and declared > 0:
            found = declared
        elif self._duration:
            found = max(self._duration * tick, declared)
        else:
            found = gap
        return snapped(start + found, rate, tick) - start


def _decoder(stream: VideoStream) -> VideoCodecContext:
    """The decoder of a stream: one that knows transparency where the stream says that it has some."""
    import av

    name = _ALPHA_DECODERS.get(stream.codec_context.name)
    alpha = {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode")
    if name is None or alpha != "1" or name not in av.codecs_available:
        return stream.codec_context
    decoder = cast("VideoCodecContext", av.CodecContext.create(name, "r"))
    if stream.codec_context.extradata:
        decoder.extradata = stream.codec_context.extradata
    return decoder


def _rate(stream: VideoStream) -> Fraction:
    """Frames per second on average. Of a file that was copied without its rate, libav may say tens of thousands."""
    known = (rate for rate in (stream.average_rate, stream.guessed_rate) if rate and rate <= _FASTEST)
    return Fraction(next(known, DEFAULT_FPS))


def _matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """The upper left part (a, b, c, d) of a frame's display matrix: x' = a x + c y, y' = b x + d y."""
    from av.sidedata.sidedata import Type

    data = _side_data(frame, Type.DISPLAYMATRIX)
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    return a, b, c, d


def _is_transposed(matrix: tuple[int, int, int, int]) -> bool:
    a, b, c, d = matrix
    return abs(b) + abs(c) > abs(a) + abs(d)


def _upright(pixels: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """The pixels as shown: turned by the nearest multiple of 90 degrees, and mirrored, as the frame's matrix says."""
    a, b, c, d = matrix = _matrix(frame)
    if _is_transposed(matrix):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _matroska_size(path: Path) -> int | None:
    """The size in bytes that an MKV or WebM declares; None where it is left open, as in live recordings."""
    with path.open("rb") as file:
        file.seek(4)
        file.seek(_ebml_size(file) or 0, os.SEEK_CUR)
        if _exactly(file, 4) != b"\x18\x53\x80\x67":
            return None
        size = _ebml_size(file)
        return None if size is None else file.tell() + size


def _ebml_size(file: BinaryIO) -> int | None:
    """The size of a Matroska element; None where it is left open, as in live recordings."""
    first = _exactly(file, 1)
    more = 8 - first[0].bit_length()  # bytes that follow, as many as the leading zero bits
    bits = 7 * (more + 1)
    size = int.from_bytes(first + _exactly(file, more), "big") & (2**bits - 1)
    return None if size == 2**bits - 1 else size


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it ends early")
    return data


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

    def count_frame(self, frame: VideoFrame, end: int) -> None:
        self.shown += 1
        self.corrupt += frame.is_corrupt
        self.end = max(self.end, end)

    def shortfall(self, container: InputContainer, stream: VideoStream) -> str | None:
        """A text that says what is missing, or None. A clip trimmed by an edit list has fewer packets than samples."""
        if self.packets == stream.frames:
            missing = stream.frames - self.discarded - self.shown
            return f"it declares {stream.frames} frames but {missing} of them are missing" if missing else None
        declared = _declared_end(container, stream)
        covered = self.end * stream.time_base if stream.time_base else Fraction(0)
        # Containers round times to milliseconds; one missing frame is more than half a frame.
        if declared is None or covered >= declared - 1 / (2 * _rate(stream)):
            return None
        return f"it declares {float(declared):.2f} s but holds {float(covered):.2f} s"


def _declared_end(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """The time at which the last frame should end; None where nothing declares it (as in live recordings)."""
    if container.format.name in _UNDECLARED:
        return None
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
