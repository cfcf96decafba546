import io
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from rlv2v_fast.data.video import read_timed
from rlv2v_fast.data.y4m import Y4mReader, Y4mWriter
from rlv2v_fast.train.pipe import translate_pipe
from tests.data.helpers import UNEVEN, flashing, gray, make

PIPE = Path("-")


class Same:
    """A model that changes nothing."""

    def translate_stream(self, pieces, direction):
        return iter(pieces)


@pytest.fixture
def through(monkeypatch):
    def run(source, output, given=b"", **settings):
        """The frames translated, and what went to standard output."""
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, write_through=True))
        count = translate_pipe(Same(), source, output, device=torch.device("cpu"), **settings)
        return count, written.getvalue()

    return run


def white(frames):
    levels = [frame.mean() > 128 for frame in frames]
    return [i for i, is_white in enumerate(levels) if is_white and not (i and levels[i - 1])]


@pytest.mark.parametrize(("fps", "rate", "seen"), [(None, 30, 75), (Fraction(10), 10, 35)])
def test_a_varying_rate_becomes_constant_in_a_pipe(tmp_path, through, fps, rate, seen):
    source = make(tmp_path / "s.mp4", flashing(UNEVEN), UNEVEN, Fraction(5))
    count, content = through(source, PIPE, fps=fps)
    reader = Y4mReader(io.BytesIO(content))
    frames = list(reader)
    assert (count, reader.fps, len(frames)) == (seen, rate, 5 * rate)
    assert white(frames) == [0, rate, 2 * rate, 3 * rate, 4 * rate]


@pytest.mark.parametrize(("fps", "rate"), [(None, 30), (Fraction(10), 10)])
def test_a_pipe_has_the_rate_that_it_tells(tmp_path, through, fps, rate):
    content = io.BytesIO()
    with Y4mWriter(content, 32, 32, Fraction(30)) as writer:
        for index in range(60):
            writer.write(gray(255 if index % 30 == 0 else 20))
    through(PIPE, tmp_path / "o.mp4", content.getvalue(), fps=fps)
    frames = list(read_timed(tmp_path / "o.mp4"))
    assert [frame.start for frame in frames] == [Fraction(i, rate) for i in range(2 * rate)]
    assert white([frame.pixels for frame in frames]) == [0, rate]
    assert np.array_equal(frames[0].pixels, gray(255))
