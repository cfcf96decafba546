import gc
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.data import VideoWriter, probe, read_frames, read_timed
from rlv2v_fast.errors import InputError
from tests.data.helpers import UNEVEN, clicks, first_pixel, flashes, flashing, gray, make, plain, remux

WHOLE = [0, 1, 2, 3, 4]


def times(path):
    return [frame.start for frame in read_timed(path)]


@pytest.mark.parametrize(
    ("name", "unit"),
    [("a.mp4", 90000), ("a.mov", 600), ("a.mkv", 1000), ("a.webm", 1000), ("a.ts", 90000)],
)
def test_frames_have_the_times_of_their_container(tmp_path, name, unit):
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    path = make(tmp_path / name, flashing(UNEVEN), UNEVEN, Fraction(5), codec=codec, unit=Fraction(1, unit))
    assert times(path) == UNEVEN
    shown, end = flashes(path)
    start = float(probe(path).start)
    assert shown == pytest.approx([start + t for t in WHOLE])
    assert end == pytest.approx(start + 5)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.flv", "libx264"), ("a.wmv", "wmv2"), ("a.nut", "mpeg4"), ("a.apng", "apng")]
)
def test_rarer_containers_vary_their_rate_as_well(tmp_path, name, codec):
    pixels = "rgb24" if codec == "apng" else "yuv420p"
    path = make(
        tmp_path / name, flashing(UNEVEN), UNEVEN, Fraction(5), codec=codec, unit=Fraction(1, 30), pixels=pixels
    )
    start = float(probe(path).start)
    assert flashes(path)[0] == pytest.approx([start + t for t in WHOLE], abs=0.002)


@given(gaps=st.lists(st.integers(1, 4000), min_size=1, max_size=12), offset=st.integers(0, 3000))
@settings(max_examples=15, deadline=None)
def test_any_times_are_read_as_they_were_written(tmp_path_factory, gaps, offset):
    starts = [Fraction(sum(gaps[:i]), 1000) for i in range(len(gaps))]
    path = tmp_path_factory.mktemp("times") / "a.mp4"
    shift = Fraction(offset, 1000)
    make(path, [gray(90)] * len(gaps), starts, Fraction(sum(gaps), 1000), unit=Fraction(1, 1000), offset=shift)
    read = list(read_timed(path))
    assert [frame.start for frame in read] == pytest.approx(starts, abs=1e-9)
    assert [frame.duration for frame in read] == [Fraction(gap, 1000) for gap in gaps]
    assert probe(path).start == shift


@pytest.mark.parametrize("frames", [1, 2, 3, 10])
@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_frames_out_of_order_keep_their_times(tmp_path, frames, b_frames):
    starts = [Fraction(i * i, 30) for i in range(frames)]
    options = (("preset", "ultrafast"), ("bf", b_frames))
    path = make(tmp_path / "a.mp4", [gray(20 * i) for i in range(frames)], starts, starts[-1] + 1, options=options)
    assert times(path) == starts
    assert [round(frame.mean() / 20) for frame in read_frames(path)] == list(range(frames))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_frames_follow_each_other_from_zero(tmp_path, codec):
    # libav guesses times of display that are one frame late.
    path = make(tmp_path / "a.avi", [gray(20 * i) for i in range(8)], codec=codec, unit=Fraction(1, 30))
    assert times(path) == [Fraction(i, 30) for i in range(8)]
    assert probe(path).start == 0


def test_frames_that_an_avi_leaves_out_leave_a_gap(tmp_path):
    starts = [Fraction(t, 30) for t in (0, 1, 2, 6, 7)]
    path = make(tmp_path / "a.avi", [gray(20 * i) for i in range(5)], starts, codec="mpeg4", unit=Fraction(1, 30))
    assert times(path) == starts


def test_times_that_stand_still_or_go_back_are_moved_on(tmp_path):
    path = make(tmp_path / "a.mp4", [gray(20 * i) for i in range(6)])

    def confuse(packet):
        if round(packet.pts * packet.time_base * 30) == 2:
            packet.pts += round(Fraction(2, 30) / packet.time_base)

    read = times(remux(path, tmp_path / "b.mp4", confuse))
    assert [round(start * 30) for start in read] == [0, 1, 4, 4, 4, 5]
    assert read == sorted(set(read))


def test_a_constant_rate_is_exact_where_the_container_rounds(tmp_path):
    rate = Fraction(30000, 1001)
    path = make(tmp_path / "a.mkv", [gray(0)] * 40, unit=1 / rate, rate=rate)
    assert times(path) == [i / rate for i in range(40)]


def test_a_trimmed_clip_begins_at_its_first_shown_frame(tmp_path):
    path = make(tmp_path / "a.mp4", [gray(10 * i) for i in range(20)], unit=Fraction(1, 30))

    def earlier(packet):
        shift = round(Fraction(5, 30) / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift

    assert times(remux(path, tmp_path / "b.mp4", earlier)) == [Fraction(i, 30) for i in range(15)]


def test_pictures_are_turned_and_mirrored_as_their_matrix_says(tmp_path):
    corners = np.zeros((32, 48, 3), np.uint8)
    corners[:16, :24], corners[:16, 24:], corners[16:, :24] = 240, 160, 80
    path = make(tmp_path / "a.mp4", [corners] * 2)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    one = 65536
    ways = {
        (one, 0, 0, one): corners,
        (0, one, -one, 0): np.rot90(corners, -1),
        (-one, 0, 0, -one): np.rot90(corners, 2),
        (0, -one, one, 0): np.rot90(corners),
        (-one, 0, 0, one): corners[:, ::-1],
        (one, 0, 0, -one): corners[::-1],
        (0, one, one, 0): corners.transpose(1, 0, 2),
    }
    for (a, b, c, d), expected in ways.items():
        struct.pack_into(">9i", data, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
        (tmp_path / "b.mp4").write_bytes(data)
        read = next(read_frames(tmp_path / "b.mp4"))
        assert np.abs(read.astype(int) - expected).mean() < 4, (a, b, c, d)
        info = probe(tmp_path / "b.mp4")
        assert (info.height, info.width) == expected.shape[:2]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_the_shape_of_pixels_is_told_as_shown(tmp_path, name):
    def anamorphic(_, stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    assert probe(make(tmp_path / name, [gray(0)], prepare=anamorphic)).aspect == Fraction(4, 3)
    assert probe(make(tmp_path / name, [gray(0)])).aspect == 1


def two_streams(path, default):
    with av.open(str(path), "w") as container:
        for index in range(2):
            stream = container.add_stream("mpeg4", rate=10)
            stream.height = stream.width = 32
            stream.pix_fmt = "yuv420p"
            stream.disposition = Disposition.default if index == default else 0
        for index, colour in enumerate((40, 200)):
            frame = av.VideoFrame.from_ndarray(gray(colour), format="rgb24").reformat(format="yuv420p")
            frame.pts = 0
            stream = container.streams.video[index]
            container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.mark.parametrize(("default", "level"), [(0, 40), (1, 200)])
def test_of_several_streams_the_default_is_read_and_told(tmp_path, default, level):
    path = two_streams(tmp_path / "a.mkv", default)
    assert first_pixel(path)[0] == pytest.approx(level, abs=3)
    assert probe(path).notes == (f"of its 2 video streams, number {default} is translated",)


def test_transparent_parts_of_a_webm_are_black(tmp_path):
    rgba = plain((255, 0, 0, 255))
    rgba[:16, :, 3] = 0
    path = make(tmp_path / "a.webm", [rgba] * 2, codec="libvpx-vp9", pixels="yuva420p", given="rgba")
    pixels = next(read_frames(path)).astype(int)
    assert np.abs(pixels[2, 2]).max() <= 2
    assert np.abs(pixels[30, 2] - (255, 0, 0)).max() <= 4
    assert probe(path).notes == ("it is transparent in part: it is put on black",)


def test_a_video_without_a_picture_that_can_be_read_names_it(tmp_path):
    def unusual(frame):
        frame.colorspace = 8

    def tagged(_, stream):
        stream.codec_context.colorspace = 8

    path = make(tmp_path / "a.mp4", [gray(90)], pixels="yuv444p", tag=unusual, prepare=tagged)
    with pytest.raises(InputError, match=r"a\.mp4' cannot be read: its colour matrix .* but it is YCgCo"):
        list(read_frames(path))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(
            ("a" + suffix, "libx264")
            for suffix in (".m4v", ".qt", ".3gp", ".f4v", ".ts", ".mts", ".m2ts", ".flv", ".nut")
        ),
        *(("a" + suffix, "mpeg4") for suffix in (".divx", ".3g2")),
        *(("a" + suffix, "mpeg2video") for suffix in (".mpg", ".vob", ".mxf")),
        ("a.wmv", "wmv2"),
        ("a.asf", "wmv2"),
        ("a.y4m", "wrapped_avframe"),
        ("a.apng", "apng"),
    ],
)
def test_every_kind_of_container_is_read_whole(tmp_path, name, codec):
    container = {".qt": "mov", ".f4v": "mp4", ".divx": "avi", ".mts": "ts", ".m2ts": "ts"}.get(name[1:])
    path = tmp_path / name
    frames = [gray(40 * i) for i in range(5)]
    # libav does not guess the muxer of some names.
    made = tmp_path / (f"made.{container}" if container else name)
    make(made, frames, rate=25, codec=codec, unit=Fraction(1, 25), pixels="rgb24" if codec == "apng" else "yuv420p")
    made.rename(path)
    assert [round(frame.mean() / 40) for frame in read_frames(path)] == list(range(5))
    assert times(path) == [Fraction(i, 25) for i in range(5)]


def test_a_limit_of_open_files_is_not_the_videos_fault(tmp_path):
    resource = pytest.importorskip("resource")
    path = make(tmp_path / "a.mp4", [gray(0)])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(InputError, match=r"a\.mp4' cannot be read: Too many open files"):
            list(read_frames(path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_codec_without_a_decoder_is_not_damage(tmp_path):
    path = make(tmp_path / "a.mkv", [gray(0)], codec="ffv1")
    path.write_bytes(path.read_bytes().replace(b"V_FFV1", b"V_NONE"))
    with pytest.raises(InputError, match=r"a\.mkv' cannot be read: no decoder is known for its video stream"):
        probe(path)


def test_interlaced_pictures_are_told(tmp_path):
    options = (("preset", "ultrafast"), ("bf", "0"), ("x264-params", "interlaced=1"))
    path = make(tmp_path / "a.mp4", [gray(90)] * 2, options=options)
    assert any("interlaced" in note for note in probe(path).notes)


@pytest.mark.parametrize("mark", ["SPHERICAL", "STEREO3D", "A53_CC"])
def test_marks_beside_the_pixels_are_told(tmp_path, monkeypatch, mark):
    kind = getattr(Type, mark)
    monkeypatch.setattr("rlv2v_fast.data.container._side_data", lambda _, asked: b"" if asked == kind else None)
    (told,) = probe(make(tmp_path / "a.mp4", [gray(0)])).notes
    assert "left out" in told


def test_audio_before_the_pictures_does_not_move_their_clock(tmp_path):
    audio = [("aac", 48000, "mono", clicks(2), 0)]
    path = make(tmp_path / "a.mp4", flashing(UNEVEN), UNEVEN, Fraction(5), offset=Fraction(1), audio=audio)
    assert probe(path).start == 1
    assert flashes(path)[0] == pytest.approx([t + 1 for t in WHOLE])


def test_no_decoded_frame_is_held_until_garbage_is_collected(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 16, 16, 25) as writer:
        for level in range(30):
            writer.write(np.full((16, 16, 3), level, np.uint8))
    gc.collect()
    gc.disable()
    try:
        assert sum(1 for _ in read_frames(path)) == 30
        assert sum(type(each) is av.VideoFrame for each in gc.get_objects()) < 5
    finally:
        gc.enable()
