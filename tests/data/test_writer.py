import os
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.data import VideoWriter, read_frames, read_timed
from rlv2v_fast.data.info import VideoInfo
from rlv2v_fast.data.writer import check_target, pace
from rlv2v_fast.errors import InputError
from tests.data.helpers import UNEVEN, flashes, flashing, gray, no_more_than

TIMED = ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.webp"]
KINDS = [*TIMED, "a.avi", "frames"]


def write(path, frames, starts, end, fps=Fraction(30), **kwargs):
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height, fps, **kwargs) as writer:
        for frame, start, stop in zip(frames, starts, [*starts[1:], end], strict=True):
            writer.write(frame, start, stop - start)
    return writer


@pytest.mark.parametrize("name", TIMED)
def test_each_frame_keeps_its_time(tmp_path, name):
    write(tmp_path / name, flashing(UNEVEN), UNEVEN, Fraction(5))
    read = list(read_timed(tmp_path / name))
    step = {"a.gif": Fraction(1, 200), "a.webp": Fraction(1, 2000)}.get(name, Fraction(1, 2000))
    assert [abs(frame.start - start) <= step for frame, start in zip(read, UNEVEN, strict=True)] == [True] * 75
    shown, end = flashes(tmp_path / name)
    assert shown == [0, 1, 2, 3, 4]
    assert end == pytest.approx(5, abs=0.0051)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
@given(gaps=st.lists(st.integers(2, 300), min_size=1, max_size=10))
@settings(max_examples=10, deadline=None)
def test_any_times_come_out_as_they_went_in(tmp_path_factory, name, gaps):
    starts = [Fraction(sum(gaps[:i]), 100) for i in range(len(gaps))]
    path = tmp_path_factory.mktemp("times") / name
    write(path, [gray(i % 2 * 200) for i in range(len(gaps))], starts, Fraction(sum(gaps), 100))
    read = list(read_timed(path))
    assert [frame.start for frame in read] == pytest.approx(starts, abs=0.0051)
    assert [frame.duration for frame in read] == pytest.approx([gap / 100 for gap in gaps], abs=0.0101)


@pytest.mark.parametrize("name", KINDS)
def test_at_a_constant_rate_flashes_stay_in_time(tmp_path, name):
    writer = write(tmp_path / name, flashing(UNEVEN), UNEVEN, Fraction(5), Fraction(25), constant=True)
    frames = list(read_frames(tmp_path / name))
    assert len(frames) == 125
    assert [i for i, frame in enumerate(frames) if frame.mean() > 128 >= frames[i - 1].mean() or i == 0] == [
        0,
        25,
        50,
        75,
        100,
    ]
    repeated, left_out = writer.resampled
    assert 75 + repeated - left_out == 125


def test_equal_frames_among_others_are_not_lost_in_a_gif(tmp_path):
    # The encoder compares indices of colours, which are 0 for every plain picture.
    levels = [255, 20, 20, 255, 20, 255]
    write(tmp_path / "a.gif", [gray(level) for level in levels], [Fraction(i, 10) for i in range(6)], Fraction(6, 10))
    assert [round(frame.mean()) for frame in read_frames(tmp_path / "a.gif")] == levels


@pytest.mark.parametrize("name", TIMED)
def test_times_that_a_container_cannot_tell_apart_are_moved_on(tmp_path, name):
    starts = [Fraction(i, 10**7) for i in range(4)]
    write(tmp_path / name, [gray(60 * i) for i in range(4)], starts, Fraction(1))
    assert [round(frame.mean() / 60) for frame in read_frames(tmp_path / name)] == [0, 1, 2, 3]


def test_a_constant_rate_keeps_what_the_caller_overwrites(tmp_path):
    frame = np.zeros((8, 8, 3), np.uint8)
    with VideoWriter(tmp_path / "frames", 8, 8, 10) as writer:
        for level in (10, 20, 30):
            frame[:] = level
            writer.write(frame)
    assert [int(read[0, 0, 0]) for read in read_frames(tmp_path / "frames")] == [10, 20, 30]


def info(fps, finest=None, tick=Fraction(1, 90000)):
    return VideoInfo(8, 8, Fraction(fps), None, False, finest and Fraction(finest), tick)


def test_the_pace_is_that_of_the_source_where_the_output_can(tmp_path):
    assert pace(tmp_path / "a.mp4", info(Fraction(75, 11), 30)).constant is False
    for name in ("a.avi", "frames"):
        assert pace(tmp_path / name, info(Fraction(75, 11), 30)) == pace(tmp_path / name, info(30, 30))
        assert pace(tmp_path / name, info(24, 24)).fps == 24
    assert pace(tmp_path / "a.gif", info(60, 60)) == pace(tmp_path / "a.gif", info(50), Fraction(50))
    assert pace(tmp_path / "a.mp4", info(60), Fraction(10)).fps == 10


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
@pytest.mark.parametrize("limit", [50, 1000, 20000])
@pytest.mark.parametrize("name", KINDS)
def test_a_full_disk_is_told_and_keeps_what_there_was(tmp_path, name, limit):
    noise = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in range(12)]
    old = tmp_path / name
    write(old, [gray(0)] * 2, [Fraction(0), Fraction(1, 30)], Fraction(2, 30))
    before = sorted((entry, entry.stat().st_size) for entry in tmp_path.rglob("*"))
    limit = min(limit, 5000) if name == "frames" else limit
    with no_more_than(limit), pytest.raises(InputError, match=f"output '.*{name}' cannot be written: File too large"):
        write(old, noise, [Fraction(i, 10) for i in range(12)], Fraction(12, 10))
    assert sorted((entry, entry.stat().st_size) for entry in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["x" * 236 + ".mp4", "x" * 240, "ü" * 118 + ".mkv", "http:a.mp4", "a%03d.webm", "a\nb.avi"]
)
def test_any_name_that_the_system_takes_can_be_written(tmp_path, name):
    write(tmp_path / name, [gray(90)] * 2, [Fraction(0), Fraction(1, 30)], Fraction(2, 30))
    assert len(list(read_frames(tmp_path / name))) == 2
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(sys.platform != "linux", reason="only there may a name be no text")
@pytest.mark.parametrize("name", [b"\xe9.mp4", b"\xff.gif", b"\xe9t\xe9"])
def test_a_name_that_is_no_text_can_be_written(tmp_path, name):
    for folder in (tmp_path, tmp_path / os.fsdecode(b"\xe9")):
        folder.mkdir(exist_ok=True)
        path = folder / os.fsdecode(name)
        write(path, [gray(90)] * 2, [Fraction(0), Fraction(1, 30)], Fraction(2, 30))
        assert len(list(read_frames(path))) == 2


def test_a_name_that_is_too_long_is_refused_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written: .*name"):
        VideoWriter(tmp_path / ("x" * 300 + ".mp4"), 8, 8, 25)


def test_a_missing_encoder_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", set())
    with pytest.raises(InputError, match=r"a\.webm' needs the encoder libvpx-vp9, which this build of PyAV lacks"):
        VideoWriter(tmp_path / "a.webm", 8, 8, 25)


def test_a_size_that_a_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(InputError, match="width and height must be at most 16383 for output"):
        VideoWriter(tmp_path / "a.webp", 16384, 8, 25)


@pytest.fixture
def video(tmp_path):
    for name in ("a.mp4", "frames"):
        write(tmp_path / name, [gray(0)] * 2, [Fraction(0), Fraction(1, 30)], Fraction(2, 30))
    return tmp_path


def test_the_source_is_never_replaced_by_whatever_name(video, monkeypatch):
    (video / "soft.mp4").symlink_to("a.mp4")
    os.link(video / "a.mp4", video / "hard.mp4")
    (video / "other").symlink_to("frames")
    (video / "sub").mkdir()
    monkeypatch.chdir(video / "sub")
    for source, output in [
        (video / "a.mp4", video / "a.mp4"),
        (video / "a.mp4", video / "soft.mp4"),
        (video / "soft.mp4", video / "a.mp4"),
        (video / "a.mp4", video / "hard.mp4"),
        (video / "a.mp4", video / "sub" / ".." / "a.mp4"),
        (video / "a.mp4", type(video)("../a.mp4")),
        (video / "frames", video / "frames"),
        (video / "frames", video / "other"),
        (video / "other", type(video)("../frames")),
    ]:
        with pytest.raises(InputError, match="must not be the input"):
            check_target(output, source)
        with pytest.raises(InputError, match="must not be the input"):
            VideoWriter(output, 32, 32, 25, source)


def test_an_existing_output_is_replaced_only_where_asked(video):
    for name in ("a.mp4", "frames"):
        with pytest.raises(InputError, match=f"{name}' exists already; pass --overwrite to replace it"):
            check_target(video / name, overwrite=False)
        check_target(video / name)
    (video / "empty").mkdir()
    check_target(video / "empty", overwrite=False)
    check_target(video / "new.mp4", overwrite=False)


def test_an_output_that_is_a_link_is_written_where_it_leads(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "real" / "b.mp4")
    write(tmp_path / "a.mp4", [gray(0)], [Fraction(0)], Fraction(1))
    assert (tmp_path / "a.mp4").is_symlink()
    assert (tmp_path / "real" / "b.mp4").is_file()
    assert sorted(os.listdir(tmp_path / "real")) == ["b.mp4"]
