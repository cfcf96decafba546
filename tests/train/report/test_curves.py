import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.train.report.curves import POINTS, Series, chart, number

VALUES = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=12)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.booleans())
def test_whatever_the_values_points_lie_inside(values, dots):
    drawn = chart([Series("s", range(len(values)), values)], "loss", dots=dots)
    assert bool(drawn) == any(map(math.isfinite, values))
    width, height = 380, 230
    points = re.findall(r"[ML]([-\d.naif]+) ([-\d.naif]+)", drawn)
    points += re.findall(r'cx="([^"]+)" cy="([^"]+)"', drawn)
    assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in points)
    assert not drawn or 2 <= drawn.count('class="grid"') <= 12


def test_a_wide_range_has_a_logarithmic_axis():
    assert "(logarithmic)" in chart([Series("s", [1, 2], [0.001, 10])], "loss")
    assert "(logarithmic)" not in chart([Series("s", [1, 2], [-0.001, 10])], "loss")
    assert "(logarithmic)" not in chart([Series("s", [1, 2], [5, 10])], "loss")


def test_long_series_are_averaged():
    drawn = chart([Series("s", range(10_000), [7.0] * 10_000)], "loss")
    (path,) = re.findall(r'd="(M[^"]+)"', drawn)
    assert path.count("L") < POINTS


def test_names_are_escaped():
    assert "<b>" not in chart([Series("<b>", [1], [1])], "<b>", across="<b>", limit=1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (20000, "20,000"), (1234.5, "1,234"), (1e-5, "1e-5"), (2.5e8, "2.5e8"), (-3, "-3")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
