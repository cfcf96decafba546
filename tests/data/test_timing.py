from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlv2v_fast.data.timing import TimedFrame, at_rate, place, resampling_rate, snapped, timed

RATES = st.sampled_from([Fraction(n) for n in (1, 5, 24, 25, 30, 60)] + [Fraction(30000, 1001)])
GAPS = st.lists(st.fractions(Fraction(1, 500), 2, max_denominator=1000), min_size=1, max_size=30)


def frames_of(gaps):
    starts = [Fraction(0), *accumulate(gaps)]
    return [TimedFrame(np.full((1, 1, 3), i, np.uint8), starts[i], gap) for i, gap in enumerate(gaps)]


@given(gaps=GAPS, rate=RATES)
def test_at_a_rate_the_nearest_frame_is_shown(gaps, rate):
    frames = frames_of(gaps)
    for frame in at_rate(frames, rate):
        belonging = [f for f in frames if place(f.start, rate) == frame.start * rate]
        nearest = min(belonging, key=lambda f: abs(f.start - frame.start))
        assert np.array_equal(frame.pixels, nearest.pixels)
        # No frame is off by more than half a step.
        assert abs(frame.start - nearest.start) * rate <= Fraction(1, 2)


@given(gaps=GAPS, rate=RATES)
def test_at_a_rate_no_time_is_lost_or_covered_twice(gaps, rate):
    shown = list(at_rate(frames_of(gaps), rate))
    assert shown[0].start == 0
    for frame, after in pairwise(shown):
        assert frame.start + frame.duration == after.start
        assert frame.duration > 0
    last = shown[-1]
    assert last.start + last.duration == max(place(sum(gaps), rate), 1) / rate


@given(factor=st.integers(1, 12), count=st.integers(1, 60))
def test_a_rate_that_divides_the_sources_takes_every_nth_frame(factor, count):
    rate = Fraction(60, factor)
    shown = [int(frame.pixels[0, 0, 0]) for frame in at_rate(frames_of([Fraction(1, 60)] * count), rate)]
    assert shown == [i * factor for i in range(len(shown))]
    assert len(shown) == max(place(Fraction(count, factor), Fraction(1)), 1)


@given(rate=RATES, count=st.integers(1, 40))
def test_frames_of_the_rate_itself_are_all_kept(rate, count):
    frames = frames_of([1 / rate] * count)
    assert [(f.start, f.duration) for f in at_rate(frames, rate)] == [(f.start, f.duration) for f in frames]


@given(rate=RATES, index=st.integers(0, 10**6), unit=st.sampled_from([1000, 90000]))
def test_rounded_multiples_of_a_rate_become_exact_again(rate, index, unit):
    rounded = Fraction(place(index / rate, Fraction(unit)), unit)
    assert snapped(rounded, rate, Fraction(1, 2 * unit)) == index / rate


def test_a_time_between_two_multiples_stays_as_it_is():
    assert snapped(Fraction(50, 1000), Fraction(30), Fraction(1, 1000)) == Fraction(50, 1000)


def test_durations_reach_to_the_next_frame_and_the_last_is_given():
    pixels = np.zeros((1, 1, 3), np.uint8)
    given_ = [(pixels, Fraction(start)) for start in (0, 2, 3)]
    assert [frame.duration for frame in timed(given_, Fraction(5))] == [2, 1, 5]
    assert list(timed([], Fraction(5))) == []


def test_a_varying_rate_is_resampled_at_one_that_cameras_have():
    assert resampling_rate(Fraction(75, 11), Fraction(30)) == 30
    assert resampling_rate(Fraction(2997, 100), Fraction(90000)) == 30
    assert resampling_rate(Fraction(31), None) == 48
    assert resampling_rate(Fraction(500), None) == 500
