"""How a cost grows with a size: power laws fitted to the rows of scaling runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bench.harness import Row


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the straight line through (log size, log cost) with least squared error."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)


def swept_size(row: Row) -> int:
    shape = row["shape"]
    return shape["H"] * shape["W"] if row["sweep"] == "HW" else shape[row["sweep"]]


Groups = dict[tuple[str, ...], list[tuple[float, float]]]


def scaling_groups(rows: Iterable[Row], field: str = "p50_ms") -> Groups:
    """Points (size, field's value), sorted by size, by (op, phase, dtype, backend, letter); at least two sizes."""
    groups: Groups = {}
    for row in rows:
        if row["sweep"] is not None and (row[field] or 0) > 0:
            name = (row["op"], row["phase"], row["dtype"], row["backend"], row["sweep"])
            groups.setdefault(name, []).append((swept_size(row), row[field]))
    return {name: sorted(points) for name, points in groups.items() if len({size for size, _ in points}) > 1}
