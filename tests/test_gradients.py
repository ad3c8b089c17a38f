"""A training step against the same network and formulas in float64, parameter by parameter."""

from gradients import TOLERANCES, assert_close, compare


def test_gradients_and_step_are_those_of_float64():
    """At 512 px test_cuda.py compares them, on a GPU."""
    assert_close(*compare("cpu", 64), TOLERANCES[64])
