"""What goes from one container into another beside the pictures: audio, subtitles, covers, chapters and texts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rlv2v_fast.data.container import chosen, moving_pictures
from rlv2v_fast.data.names import CONTAINER_SUFFIXES, damaged, libav_name
from rlv2v_fast.errors import MediaWarning

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, Packet
    from av.container import InputContainer, OutputContainer
    from av.container.core import Chapter
    from av.filter import Graph
    from av.stream import Stream
    from av.subtitles.stream import SubtitleStream
    from av.subtitles.subtitle import AssSubtitle

# What a muxer writes by itself, or what describes the source's own encoding.
_OWN_TEXTS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration"})
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
# A frame of MP3 that borrows no bits from the one before can be the first.
_AUDIO_OPTIONS = {"libmp3lame": {"reservoir": "0"}}
_BIT_RATE = {"aac": 96_000, "libopus": 64_000, "libmp3lame": 96_000}  # of each channel, in bits per second


@dataclass(frozen=True)
class Holds:
    """What a container can hold beside pictures.

    Attributes:
        audio_copied: audio codecs that are copied as they are.
        audio_encoder: the encoder for other audio; None where there is no audio.
        subtitles_copied: subtitle codecs that are copied as they are.
        subtitle_encoder: the encoder for other subtitles that are texts.
        covers: how a cover is held: as a video stream, as an attached file, or not.
        chapters: whether there are chapters.
        attachments: whether files, such as the fonts of subtitles, are held.
        timeless: whether audio carries no times, so that it has to begin with the file and to have no gaps.
    """

    audio_copied: frozenset[str] = frozenset()
    audio_encoder: str | None = None
    subtitles_copied: frozenset[str] = frozenset()
    subtitle_encoder: str | None = None
    covers: str | None = None
    chapters: bool = False
    attachments: bool = False
    timeless: bool = False


def say(path: Path, what: str) -> None:
    """Tell the user, in one sentence, of something in a video that is changed or left out."""
    warnings.warn(f"{path}: {what}", MediaWarning, stacklevel=2)


def is_container(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in CONTAINER_SUFFIXES


def say_left_out(path: Path, kind: str) -> None:
    """Tell what a source has beside pictures, none of which an output of a kind holds."""
    import av

    if not is_container(path):
        return
    with reading(path), av.open(libav_name(path), metadata_errors="replace") as source:
        streams = {stream.type for stream in source.streams}
        covers = len(source.streams.video) > len(moving_pictures(source))
        parts = {
            "audio": "audio" in streams,
            "subtitles": "subtitle" in streams,
            "chapters": bool(source.chapters()),
            "cover": covers,
        }
    found = [name for name, is_there in parts.items() if is_there]
    if found:
        verb = "are" if len(found) > 1 or found[0].endswith("s") else "is"
        say(path, f"its {' and '.join(found)} {verb} left out, as {kind} holds pictures alone")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Errors of libav inside the block are the fault of the source at path."""
    import av

    try:
        yield
    except (av.FFmpegError, OSError, ArithmeticError) as error:
        raise damaged(path, error) from error


class Tracks:
    """The tracks of a source, muxed in step with the pictures.

    Args:
        path: the source.
        output: where the tracks go; its header must not be written yet.
        holds: what output can hold.
        whole: whether all of the source goes along: every track to its end, chapters and texts. Otherwise it is the
            audio alone, cut to the length of the pictures.
        start: the time of the first picture, on the source's clock.

    Attributes:
        lead: the time of the first picture in the output, which is not 0 where audio begins before the pictures.
    """

    def __init__(self, path: Path, output: OutputContainer, holds: Holds, *, whole: bool, start: Fraction) -> None:
        import av

        self._path, self._output, self._holds, self._whole = path, output, holds, whole
        with reading(path):
            self._source: InputContainer = av.open(libav_name(path), metadata_errors="replace")
        try:
            self._tracks: dict[int, _Track] = {}
            starts = [_start(stream) for stream in self._source.streams.audio] if holds.audio_encoder else []
            self._origin = min([start, *(time for time in starts if time is not None)])
            self.lead = start - self._origin
            self._add_audio()
            if whole:
                self._add_others()
        except BaseException:
            self.close()
            raise
        self._packets = self._converted()
        self._pending: Packet | None = None

    @classmethod
    def open(
        cls, path: Path, output: OutputContainer, holds: Holds, *, whole: bool, start: Fraction | None
    ) -> Tracks | None:
        """The tracks of path, or None where it is not a container. See the class for the arguments."""
        import av

        if not is_container(path):
            return None
        if start is None:
            with reading(path), av.open(libav_name(path), metadata_errors="replace") as source:
                pictures = moving_pictures(source)
                start = (_start(chosen(pictures)) if pictures else None) or Fraction(0)
        return cls(path, output, holds, whole=whole, start=start)

    def _add_audio(self) -> None:
        streams = self._source.streams.audio
        for number, stream in enumerate(streams, 1):
            label = "its audio" if len(streams) == 1 else f"its audio track {number}"
            if stream.codec_context is None:
                say(self._path, f"{label} is left out, as no decoder is known for it")
            elif track := self._audio_track(stream, label):
                self._add(track)

    def _audio_track(self, stream: AudioStream, label: str) -> _Track | None:
        """The track for an audio stream. Where the encoder cannot take it in any way, the user is told: None."""
        name, encoder = _codec(stream), cast("str", self._holds.audio_encoder)
        if name in self._holds.audio_copied:
            # Audio without times can only be copied from where it has none, and hence no gaps.
            if not self._holds.timeless or self._source.format.name == "avi":
                return _Copied(stream, self._output.add_stream_from_template(stream))
            encoder = name if name.startswith("pcm") else encoder
        rate, layout = stream.codec_context.sample_rate, _layout(stream)
        taken = _taken(encoder, rate, layout, len(stream.codec_context.layout.channels))
        if taken is None:
            what = f"{label} ({name}, {rate} Hz, {layout}) is left out"
            say(self._path, f"{what}, as the encoder {encoder} cannot take it")
            return None
        new_rate, new_layout = taken
        if new_rate < rate or new_layout != layout:
            what = f"{label} ({name}, {rate} Hz, {layout})"
            say(self._path, f"{what} becomes {encoder} at {new_rate} Hz, {new_layout}")
        options = _AUDIO_OPTIONS.get(encoder, {})
        target = cast("AudioStream", self._output.add_stream(encoder, new_rate, options, layout=new_layout))
        target.codec_context.bit_rate = _bit_rate(encoder, new_layout)
        return _EncodedAudio(stream, target, self._holds.timeless)

    @property
    def _kind(self) -> str:
        """The output's kind, as messages name it."""
        return self._output.format.name

    def _add(self, track: _Track) -> None:
        # MP4 calls the title of a track its name.
        for key, name in (("language", "language"), ("name", "title"), ("title", "title")):
            if value := track.source.metadata.get(key):
                track.target.metadata[name] = value
        track.target.disposition = track.source.disposition
        self._tracks[track.source.index] = track

    def _add_others(self) -> None:
        subtitles = self._source.streams.subtitles
        for number, texts in enumerate(subtitles, 1):
            label = "its subtitles" if len(subtitles) == 1 else f"its subtitle track {number}"
            if track := _subtitle_track(texts, self._output, self._holds):
                self._add(track)
            else:
                say(self._path, f"{label} ({_codec(texts)}) cannot be held by {self._kind}: left out")
        moving = moving_pictures(self._source)
        for video in self._source.streams.video:
            if video not in moving:
                self._add_cover(video)
        for stream in self._source.streams:
            if stream.type == "attachment":
                self._add_attachment(stream)
        self._say_data()
        if chapters := self._source.chapters():
            if self._holds.chapters:
                self._output.set_chapters([self._shifted(chapter) for chapter in chapters])
            else:
                say(self._path, f"its chapters are left out, as {self._kind} holds none")
        for key, value in self._source.metadata.items():
            if key.lower() not in _OWN_TEXTS:
                self._output.metadata[key] = value

    def _say_data(self) -> None:
        data = [stream for stream in self._source.streams if stream.type in ("data", "unknown")]
        if self._source.chapters() and "mov" in self._source.format.name:
            data = data[:-1]  # MP4 keeps the titles of chapters in such a track
        for stream in data:
            say(self._path, f"its stream {stream.index} of data, neither picture nor sound, is left out")

    def _shifted(self, chapter: Chapter) -> Chapter:
        shift = round(self._origin / chapter["time_base"]) if chapter["time_base"] else 0
        moved: Chapter = {**chapter, "start": max(chapter["start"] - shift, 0), "end": max(chapter["end"] - shift, 0)}
        return moved

    def _add_cover(self, stream: Stream) -> None:
        if self._holds.covers == "stream":
            self._add(_Cover(stream, self._output.add_stream_from_template(stream)))
        elif self._holds.covers == "file" and _codec(stream) in ("png", "mjpeg"):
            kind = {"png": "png", "mjpeg": "jpeg"}[_codec(stream)]
            data = next((bytes(packet) for packet in self._source.demux(stream) if packet.size), b"")
            self._source.seek(0)
            self._output.add_attachment(f"cover.{kind.replace('jpeg', 'jpg')}", f"image/{kind}", data)
        else:
            say(self._path, f"its cover is left out, as {self._kind} cannot hold it")

    def _add_attachment(self, stream: Stream) -> None:
        name = stream.metadata.get("filename", f"attachment{stream.index}")
        if self._holds.attachments:
            mimetype = stream.metadata.get("mimetype", "application/octet-stream")
            self._output.add_attachment(name, mimetype, stream.data)  # type: ignore[attr-defined]
        else:
            say(self._path, f"its attached file {name} is left out, as {self._kind} holds none")

    def _converted(self) -> Iterator[Packet]:
        if not self._tracks:
            return
        demuxed = self._source.demux(*(track.source for track in self._tracks.values()))
        while True:
            with reading(self._path):
                packet = next(demuxed, None)
            if packet is None:
                return
            track = self._tracks.get(packet.stream.index)
            if track is None:
                continue
            for made in track.converted(packet, self._origin, self._path):
                made.stream = track.target
                yield made

    def advance(self, seconds: Fraction) -> None:
        """Mux what starts before ``seconds`` of the output."""
        while packet := self._pending or next(self._packets, None):
            if (packet.pts or 0) * packet.time_base >= seconds:
                self._pending = packet
                return
            self._pending = None
            self._output.mux(packet)

    def finish(self) -> None:
        """Mux what is left, where the tracks go along whole."""
        if not self._whole:
            return
        if self._pending:
            self._output.mux(self._pending)
        for packet in self._packets:
            self._output.mux(packet)

    def close(self) -> None:
        self._source.close()


@dataclass
class _Track:
    """A stream of the source and the one of the output that it becomes."""

    source: Stream
    target: Stream

    def converted(self, packet: Packet, origin: Fraction, path: Path) -> Iterable[Packet]:
        """The packets of the output that a packet of the source becomes; an empty packet ends the stream."""
        raise NotImplementedError


class _Copied(_Track):
    def converted(self, packet: Packet, origin: Fraction, path: Path) -> Iterable[Packet]:
        if not packet.size or (packet.pts is None and packet.dts is None):
            return
        shift = round(origin / packet.time_base)
        dts = packet.pts if packet.dts is None else packet.dts
        pts = packet.dts if packet.pts is None else packet.pts
        packet.pts, packet.dts = cast("int", pts) - shift, cast("int", dts) - shift
        yield packet


class _Cover(_Track):
    def converted(self, packet: Packet, origin: Fraction, path: Path) -> Iterable[Packet]:
        if packet.size:
            packet.pts = packet.dts = 0
            yield packet


@dataclass
class _EncodedAudio(_Track):
    """Audio that is decoded, brought to the encoder's rate and channels, and encoded. Gaps become silence.

    Where audio is timeless, so does the time before its start, and what the encoder puts before time 0 is left out.
    """

    timeless: bool = False
    graph: Graph | None = None
    shape: tuple[object, ...] = ()

    def converted(self, packet: Packet, origin: Fraction, path: Path) -> Iterable[Packet]:
        import av

        stream = cast("AudioStream", self.target)
        with reading(path):
            frames = cast("list[AudioFrame]", packet.decode())
        for frame in frames:
            if frame.pts is not None and frame.time_base is not None:
                frame.pts -= round(origin / frame.time_base)
            shape = (frame.format.name, frame.layout.name, frame.sample_rate, frame.time_base)
            if self.graph is None or shape != self.shape:
                yield from self._drained(None)
                self.graph, self.shape = self._graph(frame), shape
            yield from self._drained(frame)
        if not packet.size:
            yield from self._drained(None)
            with suppress(av.EOFError):
                yield from self._timely(stream.encode(None))

    def _graph(self, frame: AudioFrame) -> Graph:
        from av.filter import Graph

        context = cast("AudioStream", self.target).codec_context
        graph = Graph()
        graph.link_nodes(
            graph.add(
                "abuffer",
                sample_rate=str(frame.sample_rate),
                sample_fmt=frame.format.name,
                channel_layout=frame.layout.name,
                time_base=str(frame.time_base or Fraction(1, frame.sample_rate)),
            ),
            graph.add("aresample", "async=1:first_pts=0" if self.timeless and not self.shape else "async=1"),
            graph.add(
                "aformat",
                sample_rates=str(context.sample_rate),
                sample_fmts=context.format.name,
                channel_layouts=context.layout.name,
            ),
            graph.add("abuffersink"),
        ).configure()
        return graph

    def _timely(self, packets: list[Packet]) -> list[Packet]:
        return [packet for packet in packets if not self.timeless or (packet.pts or 0) >= 0]

    def _drained(self, frame: AudioFrame | None) -> Iterable[Packet]:
        """The packets of what the filters give once they got a frame, or their end."""
        import av

        if self.graph is None:
            return
        self.graph.push(frame)
        while True:
            try:
                made = cast("AudioFrame", self.graph.pull())
            except (av.BlockingIOError, av.EOFError):
                return
            yield from self._timely(cast("AudioStream", self.target).encode(made))


class _EncodedSubtitles(_Track):
    """Subtitles that are texts, written as the output's kind of texts."""

    def converted(self, packet: Packet, origin: Fraction, path: Path) -> Iterable[Packet]:
        import av
        from av.subtitles.subtitle import SubtitleSet

        if not packet.size or packet.pts is None:
            return
        try:
            lines = [line.ass for line in cast("list[AssSubtitle]", packet.decode()) if line.ass]
        except av.FFmpegError:
            lines = []
        if not lines:
            return
        milliseconds = round((packet.duration or 0) * packet.time_base * 1000)
        # A line of ASS has eight fields before its text.
        text = b"\\N".join([lines[0], *(line.split(b",", 8)[-1] for line in lines[1:])])
        # Fonts, colours and places are not for plain texts; bold, italic and underlined are.
        text = re.sub(rb"\{(?!\\[biu][01]\})[^}]*\}", b"", text)
        texts = SubtitleSet.create(text=text, start=0, end=milliseconds)
        made = cast("SubtitleStream", self.target).codec_context.encode_subtitle(texts)
        made.time_base = Fraction(1, 1000)
        made.pts = made.dts = round((packet.pts * packet.time_base - origin) * 1000)
        made.duration = milliseconds
        yield made


def _start(stream: Stream) -> Fraction | None:
    """The time of a stream's first picture or sample on the container's clock, in seconds; None where unknown."""
    if stream.start_time is None or stream.time_base is None:
        return None
    return Fraction(stream.start_time * stream.time_base)


def _layout(stream: AudioStream) -> str:
    """The channels of an audio stream, as usual for their number where it names none."""
    layout = stream.codec_context.layout
    if not re.fullmatch(r"\d+ channels", layout.name):
        return layout.name
    return _USUAL_LAYOUTS.get(len(layout.channels), layout.name)


def _codec(stream: Stream) -> str:
    return stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"


def _bit_rate(encoder: str, layout: str) -> int:
    import av

    return _BIT_RATE.get(encoder, 96_000) * len(av.AudioLayout(layout).channels)


def _taken(encoder: str, rate: int, layout: str, channels: int) -> tuple[int, str] | None:
    """The rate in Hz and the layout, nearest to those given, that an encoder takes; None where it takes nothing."""
    import av

    try:
        codec = av.Codec(encoder, "w")
    except av.codec.codec.UnknownCodecError:
        return None
    usual = _USUAL_LAYOUTS.get(channels)
    for new_layout in dict.fromkeys(name for name in (layout, usual, "stereo", "mono") if name):
        new_rate = _nearest_rate(codec.audio_rates, rate)
        context = cast("av.AudioCodecContext", av.CodecContext.create(codec))
        try:
            context.sample_rate, context.layout = new_rate, new_layout
            context.format = (codec.audio_formats or [av.AudioFormat("s16")])[0]
            context.bit_rate = _bit_rate(encoder, new_layout)
            context.open()
        except (av.FFmpegError, ValueError):
            continue
        return new_rate, new_layout
    return None


def _nearest_rate(rates: list[int] | None, rate: int) -> int:
    """The lowest of rates that keeps all of rate, or else the highest."""
    if not rates or rate in rates:
        return rate
    return min((known for known in rates if known >= rate), default=max(rates))


def _subtitle_track(stream: SubtitleStream, output: OutputContainer, holds: Holds) -> _Track | None:
    if stream.codec_context is None:
        return None
    if _codec(stream) in holds.subtitles_copied:
        return _Copied(stream, output.add_stream_from_template(stream))
    stream.codec_context.open(strict=False)
    # Subtitles that are pictures have no header of styles.
    if holds.subtitle_encoder is None or not stream.codec_context.subtitle_header:
        return None
    target = cast("SubtitleStream", output.add_stream(holds.subtitle_encoder))
    target.codec_context.subtitle_header = b"[Script Info]\n"  # without styles, which plain texts have not
    return _EncodedSubtitles(stream, target)
