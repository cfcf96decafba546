"""The activation functions that every float32 kernel uses, one number at a time."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast import extension

bindings = extension.bindings()
pytestmark = pytest.mark.skipif(bindings is None, reason="rlv2v_fast._C is not built")
numbers = st.floats(-120, 120, width=32)
# Half a unit in the last place of a float32 at 1, and the least normal float32: below it the kernels' exp saturates.
HALF_ULP, LEAST_NORMAL = 2.0**-24, 2.0**-126


@settings(deadline=None, max_examples=300)
@given(numbers)
def test_sigmoid_is_exact_to_two_units(x):
    exact = 1 / (1 + math.exp(-x))
    assert abs(bindings.sigmoid(x) - exact) <= 4 * HALF_ULP * exact + LEAST_NORMAL


@settings(deadline=None, max_examples=300)
@given(numbers)
def test_tanh_is_exact_to_two_units(x):
    assert abs(bindings.tanh(x) - math.tanh(x)) <= 4 * HALF_ULP * abs(math.tanh(x))


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_limits_and_nan(name):
    function = getattr(bindings, name)
    assert math.isnan(function(math.nan))
    assert function(math.inf) == 1
    assert abs(function(-math.inf) - {"sigmoid": 0, "tanh": -1}[name]) < 1e-37


def test_build_info_names_the_torch_it_was_built_with():
    assert bindings.build_info()["built_with_torch"]
