"""When frames are shown: times of variable rate, and their places at a constant rate. Times are exact, in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

# Rates that cameras and screens have. A video of variable rate is resampled at one of them.
_COMMON_RATES = (*(Fraction(n) for n in (1, 2, 5, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120)),)


@dataclass(frozen=True)
class TimedFrame:
    """A frame ``(H, W, 3)`` uint8 RGB, the time at which it appears, and for how long it is shown, in seconds.

    Times count from the first frame. A frame is shown until the next one appears.
    """

    pixels: np.ndarray
    start: Fraction
    duration: Fraction


def snapped(time: Fraction, rate: Fraction, tolerance: Fraction) -> Fraction:
    """The multiple of ``1 / rate`` that ``time`` is within ``tolerance`` of; ``time`` itself where there is none.

    Containers round times (Matroska to 1 ms), so a constant rate looks uneven in them.
    """
    near = Fraction(place(time, rate)) / rate
    return near if abs(near - time) <= tolerance else time


def place(time: Fraction, rate: Fraction) -> int:
    """The multiple of ``1 / rate`` nearest to ``time``, as its number; halves go up, so even steps stay even."""
    return math.floor(time * rate + Fraction(1, 2))


def timed(frames: Iterable[tuple[np.ndarray, Fraction]], last: Fraction) -> Iterator[TimedFrame]:
    """Frames with their durations: until the next start, and ``last`` for the last frame."""
    held: tuple[np.ndarray, Fraction] | None = None
    for pixels, start in frames:
        if held is not None:
            yield TimedFrame(*held, start - held[1])
        held = pixels, start
    if held is not None:
        yield TimedFrame(*held, last)


def at_rate(frames: Iterable[TimedFrame], rate: Fraction) -> Iterator[TimedFrame]:
    """The frames that are shown at multiples of ``1 / rate``; the others are left out.

    A frame belongs to the multiple nearest to its start. Of several that belong to one, the one that starts nearest to
    it is shown, until the multiple of the next frame. The end of all is the multiple nearest to the end of the last
    frame, but after the first.
    """
    held: TimedFrame | None = None
    end = Fraction(0)
    begun = False
    for frame in frames:
        end = frame.start + frame.duration
        if held is not None and place(held.start, rate) == place(frame.start, rate):
            held = held if is_nearer(held.start, frame.start, rate) else frame
            continue
        if held is not None:
            yield _between(held, place(held.start, rate), place(frame.start, rate), rate)
            begun = True
        held = frame
    if held is None:
        return
    first, last = place(held.start, rate), place(end, rate)
    if last > first or not begun:
        yield _between(held, first, max(last, first + 1), rate)


def is_nearer(start: Fraction, other: Fraction, rate: Fraction) -> bool:
    """Whether a frame starts at least as near to their common multiple of ``1 / rate`` as another one."""
    time = place(start, rate) / rate
    return abs(start - time) <= abs(other - time)


def _between(frame: TimedFrame, first: int, end: int, rate: Fraction) -> TimedFrame:
    return TimedFrame(frame.pixels, first / rate, (end - first) / rate)


def resampling_rate(average: Fraction, finest: Fraction | None) -> Fraction:
    """The constant rate at which a video of variable rate is shown where times cannot be kept.

    Args:
        average: frames per second on average.
        finest: the rate of which all times seem to be multiples, where known. It is taken where a camera could have it.
    """
    if finest is not None and average <= finest <= max(_COMMON_RATES):
        return finest
    return next((rate for rate in _COMMON_RATES if rate >= average), average)
