"""Charts as inline SVG, without a library. Colours are classes of the page, which knows light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

# The size of a chart in its own units, about the pixels of a telephone's screen, and the margins for the labels.
_WIDTH, _HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 26, 40
# Points of a line, at most. More rows are averaged.
POINTS = 160
COLOURS = 6
# Ratio of the largest to the smallest value from which an axis is logarithmic.
_LOG_FROM = 30.0


@dataclass(frozen=True)
class Series:
    """Numbers to draw against steps. What is not finite is left out, and the line has a gap there.

    colour: from 0 to COLOURS - 1. dashed: tells the source's from the target's.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    colour: int = 0
    dashed: bool = False


def chart(
    series: Sequence[Series],
    label: str,
    *,
    across: str = "step",
    dots: bool = False,
    joined: bool = True,
    limit: float | None = None,
) -> str:
    """An SVG of the series; "" where there is nothing finite to draw.

    Args:
        label: of the vertical axis, with the unit.
        across: of the horizontal axis.
        dots: mark every value: for few of them. Otherwise long series are averaged.
        joined: draw lines between values.
        limit: a value to draw a line at.
    """
    lines = [(each, list(_runs(each.steps, each.values) if dots else _averaged(each))) for each in series]
    points = [point for _, runs in lines for run in runs for point in run]
    if not points:
        return ""
    values = [value for _, value in points] + ([limit] if limit is not None else [])
    up = _Axis(min(values), max(values), _HEIGHT - _BOTTOM, _TOP, log=_is_log(values))
    right = _Axis(min(s for s, _ in points), max(s for s, _ in points), _LEFT, _WIDTH - _RIGHT, whole=True)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)} by {escape(across)}">']
    for value in up.ticks():
        y = up.place(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="up" x="{_LEFT - 6}" y="{y + 4:.1f}">{number(value)}</text>')
    for value in right.ticks():
        x = right.place(value)
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{_HEIGHT - _BOTTOM}" y2="{up.start + 4}"/>')
        parts.append(f'<text class="across" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 17}">{number(value)}</text>')
    scale = " (logarithmic)" if up.log else ""
    parts.append(f'<text class="label" x="4" y="13">{escape(label)}{scale}</text>')
    parts.append(f'<text class="across" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}">{escape(across)}</text>')
    if limit is not None:
        y = up.place(limit)
        parts.append(f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for each, runs in lines:
        style = f"c{each.colour % COLOURS}{' dashed' if each.dashed else ''}"
        for run in runs:
            places = [(right.place(step), up.place(value)) for step, value in run]
            if joined and len(places) > 1:
                path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
                parts.append(f'<path class="line {style}" d="M{path}"/>')
            if dots or len(places) == 1:
                parts += [f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
    return "".join([*parts, "</svg>"])


def legend(series: Sequence[Series], *, joined: bool = True) -> str:
    """A list of the series' names, each with a piece of its line, or a dot; "" for one series, which the axis names."""
    if len(series) < 2:
        return ""
    line, dot = '<path class="line c{}{}" d="M1 5L23 5"/>', '<circle class="dot c{}{}" cx="12" cy="5" r="3"/>'
    sign = f'<svg viewBox="0 0 24 10" aria-hidden="true">{line if joined else dot}</svg>'
    items = [
        f"<li>{sign.format(each.colour % COLOURS, ' dashed' if each.dashed else '')}{escape(each.name)}</li>"
        for each in series
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def number(value: float) -> str:
    """A number with at most four digits, or thousands set apart."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


class _Axis:
    """Where values stand between two places, from a smallest to a largest.

    Args:
        whole: of numbers of steps. Ticks are whole numbers, and the range is not extended to them.
    """

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False, whole: bool = False):
        self.start, self.log, self._least = start, log, 1.0 if whole else 0.0
        if low == high:
            margin = abs(low) / 2 or 0.5
            low, high = (low / 2, high * 2) if log else (low - margin, high + margin)
        if log:
            low, high = math.log10(low), math.log10(high)
            margin = (high - low) * 0.04
            low, high = low - margin, high + margin
        elif not whole:
            step = _nice((high - low) / 4)
            low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        self._low, self._scale, self._high = low, (end - start) / (high - low), high

    def place(self, value: float) -> float:
        return self.start + ((math.log10(value) if self.log else value) - self._low) * self._scale

    def ticks(self) -> list[float]:
        """Between two and about seven round values."""
        if self.log:
            decades = range(math.floor(self._low), math.ceil(self._high) + 1)
            every = -(-len(decades) // 6)
            factors = (1, 2, 5) if self._high - self._low < 2.2 else (1,)
            found = [f * 10.0**d for d in decades if d % every == 0 for f in factors]
            return [v for v in found if self._low <= math.log10(v) <= self._high]
        step = max(self._least, _nice((self._high - self._low) / 4))
        first = math.ceil(self._low / step - 1e-9)
        last = math.floor(self._high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def _nice(step: float) -> float:
    """The round number, 1, 2 or 5 times a power of ten, that is nearest above a step."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _is_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= _LOG_FROM


def _runs(steps: Sequence[float], values: Sequence[float]) -> Iterator[list[tuple[float, float]]]:
    """The stretches of finite values."""
    run: list[tuple[float, float]] = []
    for step, value in zip(steps, values, strict=True):
        if math.isfinite(value):
            run.append((step, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _averaged(series: Series) -> Iterator[list[tuple[float, float]]]:
    """The stretches of finite values, with at most POINTS points in all: means of as many consecutive values."""
    each = bucket(len(series.steps))
    for run in _runs(series.steps, series.values):
        parts = [run[first : first + each] for first in range(0, len(run), each)]
        yield [(_mean([s for s, _ in part]), _mean([v for _, v in part])) for part in parts]


def bucket(count: int) -> int:
    """How many of `count` consecutive values a point of a line averages."""
    return max(1, -(-count // POINTS))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
