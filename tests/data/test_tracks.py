import io
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.subtitles.subtitle import SubtitleSet
from PIL import Image

from rlv2v_fast.data import VideoWriter, probe, read_timed
from rlv2v_fast.data.writer import pace
from rlv2v_fast.errors import InputError, MediaWarning
from tests.data.helpers import UNEVEN, beeps, clicks, flashes, flashing, gray, make

SECONDS = [0, 1, 2, 3, 4]
END = Fraction(5)
SOUND = ["o.mp4", "o.m4v", "o.mov", "o.mkv", "o.webm", "o.avi"]


def rewritten(source, output):
    """Write the frames of source, with all that goes along, and return what was told of it."""
    info = probe(source)
    speed = pace(output, info)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        size = info.width, info.height
        with VideoWriter(output, *size, speed.fps, source, like=info, constant=speed.constant) as writer:
            for frame in read_timed(source):
                writer.write(frame.pixels, frame.start, frame.duration)
    return [str(warning.message).removeprefix(f"{source}: ") for warning in told]


def tracks(path, kind):
    with av.open(str(path)) as container:
        return [
            (stream.codec_context.codec.canonical_name, stream.metadata.get("language"), int(stream.disposition))
            for stream in container.streams
            if stream.type == kind
        ]


def sound(path, track=0):
    with av.open(str(path)) as container:
        context = container.streams.audio[track].codec_context
        return context.codec.canonical_name, context.sample_rate, context.layout.name


def uneven(path, offset=Fraction(0), audio=None):
    audio = audio or [("aac", 48000, "mono", clicks(5), 0)]
    return make(path, flashing(UNEVEN), UNEVEN, END, offset=offset, audio=audio)


@pytest.mark.parametrize(
    ("name", "offset"), [*((name, 0) for name in SOUND), *((name, 0.5) for name in ("o.mp4", "o.mkv", "o.avi"))]
)
def test_flashes_and_beeps_stay_together(tmp_path, name, offset):
    source = uneven(tmp_path / "s.mp4", Fraction(offset))
    rewritten(source, tmp_path / name)
    shown, end = flashes(tmp_path / name)
    heard, silent = beeps(tmp_path / name)
    # A Matroska file begins with the silence that an AAC decoder starts with.
    assert shown[1:] == pytest.approx([t + float(offset) for t in SECONDS[1:]], abs=0.025)
    assert heard == pytest.approx(SECONDS, abs=0.025)
    assert np.subtract(shown, heard)[1:] == pytest.approx(float(offset), abs=0.006)
    assert end == pytest.approx(5 + float(offset), abs=0.04)
    assert silent >= 5


@pytest.mark.parametrize("name", ["o.mp4", "o.mkv", "o.webm", "o.avi"])
def test_audio_that_begins_late_stays_late(tmp_path, name):
    source = uneven(tmp_path / "s.mkv", audio=[("aac", 48000, "mono", clicks(4), 1)])
    rewritten(source, tmp_path / name)
    heard, _ = beeps(tmp_path / name)
    assert heard == pytest.approx([1, 2, 3, 4], abs=0.03)


@pytest.mark.parametrize("name", ["o.mp4", "o.mkv", "o.webm", "o.avi"])
def test_audio_longer_than_the_pictures_is_kept_whole(tmp_path, name):
    source = make(tmp_path / "s.mp4", [gray(0)] * 30, audio=[("aac", 48000, "mono", clicks(3), 0)])
    rewritten(source, tmp_path / name)
    heard, end = beeps(tmp_path / name)
    assert heard == pytest.approx([0, 1, 2], abs=0.03)
    assert end >= 3


def test_a_gap_in_the_audio_becomes_silence(tmp_path):
    source = uneven(tmp_path / "s.mkv", audio=[("pcm_s16le", 48000, "mono", clicks(5), 0)])
    gap = tmp_path / "gap.mkv"
    with av.open(str(source)) as given, av.open(str(gap), "w") as container:
        copies = [container.add_stream_from_template(stream) for stream in given.streams]
        for packet in given.demux():
            lost = (
                packet.stream.type == "audio" and packet.pts is not None and 1.5 < packet.pts * packet.time_base < 2.5
            )
            if packet.dts is not None and not lost:
                packet.stream = copies[packet.stream.index]
                container.mux(packet)
    for name in ("o.mp4", "o.webm", "o.avi"):
        rewritten(gap, tmp_path / name)
        heard, _ = beeps(tmp_path / name)
        assert heard == pytest.approx([0, 1, 3, 4], abs=0.03)


def test_audio_of_an_avi_is_copied_into_an_avi(tmp_path):
    source = make(
        tmp_path / "s.avi",
        [gray(0)] * 30,
        codec="mpeg4",
        unit=Fraction(1, 30),
        audio=[("libmp3lame", 44100, "mono", clicks(1, 44100), 0)],
    )
    rewritten(source, tmp_path / "o.avi")

    def payload(path):
        with av.open(str(path)) as container:
            return b"".join(bytes(packet) for packet in container.demux(audio=0))

    assert payload(tmp_path / "o.avi") == payload(source)


@pytest.mark.parametrize(
    ("codec", "rate", "layout", "output", "expected", "told"),
    [
        ("flac", 192000, "stereo", "o.mp4", ("aac", 96000, "stereo"), "becomes aac at 96000 Hz, stereo"),
        ("pcm_s24le", 96000, "stereo", "o.avi", ("pcm_s24le", 96000, "stereo"), None),
        ("flac", 192000, "stereo", "o.avi", ("mp3", 48000, "stereo"), "becomes libmp3lame at 48000 Hz, stereo"),
        ("flac", 44100, "5.1", "o.mp4", ("aac", 44100, "5.1"), None),
        ("flac", 48000, "5.1", "o.avi", ("mp3", 48000, "stereo"), "becomes libmp3lame at 48000 Hz, stereo"),
        ("flac", 48000, "5.1(side)", "o.webm", ("opus", 48000, "5.1"), "becomes libopus at 48000 Hz, 5.1"),
        ("flac", 48000, "mono", "o.mp4", ("aac", 48000, "mono"), None),
        ("pcm_u8", 8000, "mono", "o.mp4", ("aac", 8000, "mono"), None),
        ("pcm_u8", 11025, "mono", "o.webm", ("opus", 48000, "mono"), None),
        ("pcm_s16le", 5000, "mono", "o.mp4", ("aac", 7350, "mono"), None),
        ("flac", 192000, "stereo", "o.mkv", ("flac", 192000, "stereo"), None),
    ],
)
def test_audio_keeps_the_rate_and_channels_that_fit(tmp_path, codec, rate, layout, output, expected, told):
    samples = clicks(Fraction(1, 2), rate)
    source = make(tmp_path / "s.mkv", [gray(0)] * 15, audio=[(codec, rate, layout, samples, 0)])
    said = rewritten(source, tmp_path / output)
    assert sound(tmp_path / output) == expected
    assert said == ([f"its audio ({codec}, {rate} Hz, {layout}) {told}"] if told else [])
    assert beeps(tmp_path / output)[0] == pytest.approx([0], abs=0.03)


@pytest.mark.parametrize("name", ["o.mp4", "o.mkv", "o.mov", "o.webm"])
def test_every_audio_track_goes_along_with_its_language(tmp_path, name):
    def languages(container, _):
        for stream, language in zip(container.streams.audio, ("fra", "eng"), strict=True):
            stream.metadata["language"] = language
        container.streams.audio[1].disposition = Disposition.default

    audio = [("flac", 48000, "mono", clicks(1), 0), ("flac", 48000, "stereo", clicks(1), 0)]
    source = make(tmp_path / "s.mkv", [gray(0)] * 30, audio=audio, prepare=languages)
    assert rewritten(source, tmp_path / name) == []
    found = tracks(tmp_path / name, "audio")
    assert [language for _, language, _ in found] == ["fra", "eng"]
    assert found[1][2] & Disposition.default
    assert sound(tmp_path / name, 1)[2] == "stereo"


@pytest.mark.parametrize("name", ["o.gif", "o.webp", "frames"])
def test_audio_that_cannot_be_held_is_told(tmp_path, name):
    source = make(tmp_path / "s.mp4", [gray(0)] * 15, audio=[("aac", 48000, "mono", clicks(Fraction(1, 2)), 0)])
    (told,) = rewritten(source, tmp_path / name)
    assert told.startswith("its audio is left out, as ")


def test_an_encoder_that_takes_nothing_leaves_the_audio_out(tmp_path, monkeypatch):
    monkeypatch.setattr("rlv2v_fast.data.tracks._taken", lambda *_: None)
    source = make(tmp_path / "s.mkv", [gray(0)] * 15, audio=[("flac", 48000, "mono", clicks(Fraction(1, 2)), 0)])
    assert rewritten(source, tmp_path / "o.mp4") == [
        "its audio (flac, 48000 Hz, mono) is left out, as the encoder aac cannot take it"
    ]
    assert not probe(tmp_path / "o.mp4").has_audio


def subtitled(path, codec, text="Hello"):
    def line(container, _):
        stream = container.add_stream(codec)
        stream.metadata["language"] = "fra"
        stream.codec_context.subtitle_header = b"[Script Info]\n"

    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        line(container, video)
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(gray(0), format="rgb24").reformat(format="yuv420p")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        stream = container.streams.subtitles[0]
        event = SubtitleSet.create(text=f"0,0,Default,,0,0,0,,{text}".encode(), start=0, end=400)
        packet = stream.codec_context.encode_subtitle(event)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = 300
        packet.duration = 400
        container.mux(packet)
    return path


def lines(path):
    """(start, end, text) of each line of the first subtitles, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        return [
            (float(p.pts * p.time_base), float((p.pts + p.duration) * p.time_base), event.dialogue.decode())
            for p in container.demux(stream)
            if p.size
            for event in p.decode()
        ]


@pytest.mark.parametrize(("source", "codec"), [("s.mkv", "subrip"), ("s.mkv", "ass"), ("s.mp4", "mov_text")])
@pytest.mark.parametrize("output", ["o.mp4", "o.mov", "o.mkv", "o.webm"])
def test_subtitles_keep_their_words_and_times(tmp_path, source, codec, output):
    path = subtitled(tmp_path / source, codec)
    assert rewritten(path, tmp_path / output) == []
    ((start, end, text),) = lines(tmp_path / output)
    assert (start, end) == pytest.approx((0.3, 0.7), abs=0.002)
    assert text.endswith("Hello")
    assert tracks(tmp_path / output, "subtitle")[0][1] == "fra"


@pytest.mark.parametrize("output", ["o.avi", "o.gif", "frames"])
def test_subtitles_that_cannot_be_held_are_told(tmp_path, output):
    (told,) = rewritten(subtitled(tmp_path / "s.mkv", "subrip"), tmp_path / output)
    assert "subtitles" in told
    assert "left out" in told


def titled(container, _):
    container.metadata.update(title="Ä walk", artist="Me")
    container.set_chapters(
        [
            {
                "id": n,
                "start": 500 * n,
                "end": 500 * n + 500,
                "time_base": Fraction(1, 1000),
                "metadata": {"title": name},
            }
            for n, name in enumerate(("one", "two"))
        ]
    )


@pytest.mark.parametrize("source", ["s.mkv", "s.mp4"])
@pytest.mark.parametrize("output", ["o.mp4", "o.mov", "o.mkv", "o.webm"])
def test_chapters_and_texts_go_along(tmp_path, source, output):
    path = make(tmp_path / source, [gray(0)] * 30, prepare=titled)
    assert rewritten(path, tmp_path / output) == []
    with av.open(str(tmp_path / output)) as container:
        texts = {key.lower(): value for key, value in container.metadata.items()}
        assert (texts["title"], texts["artist"]) == ("Ä walk", "Me")
        found = [(c["start"] * c["time_base"], c["metadata"]["title"]) for c in container.chapters()]
    assert found == [(0, "one"), (Fraction(1, 2), "two")]


def renamed(path, old, new):
    """The file with the name of a codec in an MP4 replaced by another one."""
    data = path.read_bytes()
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new))
    return path


def unknown(path, **more):
    """An MP4 with a track of a codec that nobody knows."""
    audio = [("flac", 48000, "mono", clicks(Fraction(1, 2)), 0)]
    return renamed(make(path, [gray(0)] * 15, audio=audio, **more), b"fLaC", b"zzzz")


def test_audio_that_no_decoder_knows_is_told(tmp_path):
    told = rewritten(unknown(tmp_path / "s.mp4"), tmp_path / "o.mp4")
    assert told == ["its audio is left out, as no decoder is known for it"]


def test_tracks_of_data_are_told(tmp_path):
    source = renamed(unknown(tmp_path / "s.mp4", prepare=titled), b"soun", b"meta")
    told = rewritten(source, tmp_path / "o.mp4")
    assert told == ["its stream 1 of data, neither picture nor sound, is left out"]
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert len(container.chapters()) == 2


@pytest.mark.parametrize(("output", "told"), [("o.mkv", 0), ("o.mp4", 1), ("o.webm", 1)])
def test_subtitles_that_are_pictures_are_kept_or_told(tmp_path, output, told):
    def pictures(container, _):
        container.add_mux_stream("hdmv_pgs_subtitle")

    source = make(tmp_path / "s.mkv", [gray(0)] * 15, prepare=pictures)
    said = rewritten(source, tmp_path / output)
    assert len(said) == told
    assert [name for name, *_ in tracks(tmp_path / output, "subtitle")] == ["hdmv_pgs_subtitle"] * (1 - told)


def test_chapters_that_cannot_be_held_are_told(tmp_path):
    path = make(tmp_path / "s.mkv", [gray(0)] * 30, prepare=titled)
    assert rewritten(path, tmp_path / "o.avi") == ["its chapters are left out, as avi holds none"]


def covered(path, attach):
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(picture, "png")

    def add(container, _):
        if attach:
            container.add_attachment("cover.png", "image/png", picture.getvalue())
            container.add_attachment("font.ttf", "font/ttf", b"letters")
            return
        stream = container.add_stream("png", rate=1)
        stream.width = stream.height = 16
        stream.pix_fmt, stream.disposition = "rgb24", Disposition.attached_pic
        packet = av.Packet(picture.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, 0, 0, True
        packet.time_base = Fraction(1, 10)
        container.cover = packet

    return make(path, [gray(90)] * 30, prepare=add)


def with_cover(path):
    """An MP4 whose first video stream is a cover."""
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(picture, "png")
    plain = make(path.with_name("plain.mp4"), [gray(90)] * 30)
    with av.open(str(plain)) as given, av.open(str(path), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.width = cover.height = 16
        cover.pix_fmt, cover.disposition = "rgb24", Disposition.attached_pic
        video = container.add_stream_from_template(given.streams.video[0])
        packet = av.Packet(picture.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
        packet.time_base = Fraction(1, 10)
        container.mux(packet)
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                container.mux(packet)
    return path


def covers(path):
    with av.open(str(path)) as container:
        return [s for s in container.streams.video if s.disposition & Disposition.attached_pic]


def test_a_cover_is_no_frame_and_goes_along(tmp_path):
    source = with_cover(tmp_path / "s.mp4")
    assert len(covers(source)) == 1
    assert probe(source).width == 32
    for name in ("o.mp4", "o.mkv"):
        assert rewritten(source, tmp_path / name) == []
        assert len(covers(tmp_path / name)) == 1
        assert probe(tmp_path / name).width == 32
    assert rewritten(source, tmp_path / "o.webm") == ["its cover is left out, as webm cannot hold it"]


def test_attached_files_go_along_or_are_told(tmp_path):
    source = covered(tmp_path / "s.mkv", attach=True)
    assert rewritten(source, tmp_path / "o.mkv") == []
    with av.open(str(tmp_path / "o.mkv")) as container:
        attached = {s.metadata["filename"]: bytes(s.data) for s in container.streams if s.type == "attachment"}
    assert attached["font.ttf"] == b"letters"
    assert len(covers(tmp_path / "o.mkv")) == 1
    told = rewritten(source, tmp_path / "o.mp4")
    assert "its attached file font.ttf is left out, as mp4 holds none" in told


@pytest.mark.parametrize("name", ["o.mp4", "o.mov", "o.mkv", "o.avi"])
def test_pixels_that_are_not_square_stay_so(tmp_path, name):
    def anamorphic(_, stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    source = make(tmp_path / "s.mp4", [gray(0)] * 3, prepare=anamorphic)
    assert rewritten(source, tmp_path / name) == []
    assert probe(tmp_path / name).aspect == Fraction(4, 3)


@pytest.mark.parametrize("name", ["o.webm", "o.gif", "o.webp", "frames"])
def test_a_shape_of_pixels_that_cannot_be_held_is_told(tmp_path, name):
    def anamorphic(_, stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    source = make(tmp_path / "s.mp4", [gray(0)] * 3, prepare=anamorphic)
    (told,) = rewritten(source, tmp_path / name)
    assert told.endswith("those of the source are 4:3")


@pytest.mark.parametrize("name", ["o.mp4", "o.mkv", "o.webm"])
def test_primaries_and_transfer_are_tagged_as_they_were(tmp_path, name):
    def tagged(_, stream):
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 6, 6, 6

    source = make(tmp_path / "s.mp4", [gray(0)] * 3, prepare=tagged)
    rewritten(source, tmp_path / name)
    with av.open(str(tmp_path / name)) as container:
        frame = next(container.decode(video=0))
    assert (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range) == (6, 6, 1, 1)


def test_audio_alone_is_cut_where_the_rest_is_not_asked_for(tmp_path):
    source = uneven(tmp_path / "s.mp4")
    with VideoWriter(tmp_path / "o.mp4", 32, 32, 25, source) as writer:
        for _ in range(50):
            writer.write(gray(0))
    assert beeps(tmp_path / "o.mp4")[1] == pytest.approx(2, abs=0.1)


def test_damaged_audio_is_the_fault_of_the_source(tmp_path):
    source = make(tmp_path / "s.mkv", [gray(0)] * 30, audio=[("flac", 48000, "mono", clicks(1), 0)])
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        places = [packet.pos for packet in container.demux(audio=0) if packet.size]
    for place in places[1:]:
        data[place + 20 : place + 40] = bytes(20)
    source.write_bytes(data)
    with pytest.raises(InputError, match=r"s\.mkv' is damaged"):
        rewritten(source, tmp_path / "o.mp4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.mkv"]


def test_what_is_told_is_a_warning_that_python_can_filter(tmp_path):
    source = make(tmp_path / "s.mp4", [gray(0)] * 3, audio=[("aac", 48000, "mono", clicks(Fraction(1, 10)), 0)])
    info = probe(source)
    told = pytest.warns(MediaWarning, match="audio is left out, as .gif holds pictures alone")
    with told, VideoWriter(tmp_path / "o.gif", 32, 32, 30, source, like=info) as writer:
        writer.write(gray(0))
