"""Raw video in pipes."""

import io
import os
import threading
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.data.scale import lowered, scaled
from rlv2v_fast.data.y4m import Y4mReader, Y4mWriter
from rlv2v_fast.errors import InputError, PipeClosedError


def raw(frames, width, height, fps=Fraction(30000, 1001)):
    stream = io.BytesIO()
    with Y4mWriter(stream, width, height, fps) as writer:
        for frame in frames:
            writer.write(frame)
    return stream.getvalue()


@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    count=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_frames_and_rate_come_back(width, height, colour, count):
    frame = np.full((height, width, 3), colour, np.uint8)
    reader = Y4mReader(io.BytesIO(raw([frame] * count, width, height)))
    found = list(reader)
    assert (reader.width, reader.height, reader.fps, len(found)) == (width, height, Fraction(30000, 1001), count)
    assert np.abs(found[-1].astype(int) - frame).max() <= 3


def test_red_is_red_in_small_and_in_high_pictures():
    for height in (480, 720):
        frame = np.full((height, 16, 3), (198, 28, 28), np.uint8)
        (found,) = Y4mReader(io.BytesIO(raw([frame], 16, height)))
        assert np.abs(found.astype(int) - frame).max() <= 3


def test_the_matrix_is_that_of_the_height():
    # The luma of red is 0.2126 of white by BT.709 and 0.299 by BT.601, in 219 steps from 16.
    for height, luma in ((480, 16 + 219 * 0.299), (720, 16 + 219 * 0.2126)):
        content = raw([np.full((height, 16, 3), (255, 0, 0), np.uint8)], 16, height)
        assert abs(content[content.index(b"FRAME\n") + 6] - luma) <= 1


def test_full_range_is_read_as_such():
    content = b"YUV4MPEG2 W2 H2 F25:1 C444 XCOLORRANGE=FULL\nFRAME\n" + bytes([200] * 4 + [128] * 8)
    (found,) = Y4mReader(io.BytesIO(content))
    assert found.tolist() == [[[200] * 3] * 2] * 2


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda content: content[:-5], "input '-' ends within a frame"),
        (lambda content: content[:20], "its header cannot be read"),
        (lambda content: b"", "its header cannot be read"),
        (lambda content: b"\x00\x00\x00 ftypisom" * 50, "must be raw video as `ffmpeg -f yuv4mpegpipe` writes it"),
    ],
    ids=["frame", "header", "nothing", "mp4"],
)
def test_a_stream_that_breaks_off_is_told(cut, message):
    content = raw([np.zeros((16, 16, 3), np.uint8)] * 3, 16, 16)
    with pytest.raises(InputError, match=message):
        list(Y4mReader(io.BytesIO(cut(content))))


def test_a_frame_does_not_wait_for_the_next():
    reading, writing = os.pipe()
    seen = threading.Semaphore(0)

    def feed():
        with os.fdopen(writing, "wb") as stream, Y4mWriter(stream, 64, 48, Fraction(10)) as writer:
            for _ in range(4):
                writer.write(np.zeros((48, 64, 3), np.uint8))
                assert seen.acquire(timeout=30)

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(reading, "rb") as stream:
        for _ in Y4mReader(stream):
            seen.release()
    thread.join()


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("read", [0, 1, 3])
def test_a_reader_that_leaves_is_no_fault(buffering, read):
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "wb", buffering=buffering)

    def feed():
        with Y4mWriter(stream, 64, 48, Fraction(10)) as writer:
            for index in range(6):
                if index == read:
                    os.close(reading)
                writer.write(np.zeros((48, 64, 3), np.uint8))

    with pytest.raises(PipeClosedError):
        feed()
    with suppress(BrokenPipeError):  # what is left in the buffer
        stream.close()


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((1920, 1080), 720, (1280, 720)),
        ((1920, 1080), None, (1920, 1080)),
        ((1280, 720), 720, (1280, 720)),
        ((37, 721), 720, (36, 720)),
        ((1, 500), 10, (2, 10)),
    ],
)
def test_only_higher_frames_are_lowered(size, most, expected):
    assert lowered(*size, most) == expected
    assert scaled(np.zeros((size[1], size[0], 3), np.uint8), expected).shape == (expected[1], expected[0], 3)
