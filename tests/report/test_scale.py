"""Axes: round numbers inside the axis, places that keep order, and short numbers that are right."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_cli.report.scale import MOST_TICKS, Axis, linear_ticks, log_ticks, scale, told


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_even_and_inside(low, span):
    ticks = linear_ticks(low, low + span)
    assert 1 <= len(ticks) <= MOST_TICKS + 1
    slack = 1e-6 * (abs(low) + span)
    assert all(low - slack <= t <= low + span + slack for t in ticks)
    steps = [b - a for a, b in pairwise(ticks)]
    assert all(step == pytest.approx(steps[0], rel=1e-6) for step in steps)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.008, 120.0, (0.01, 0.1, 1.0, 10.0, 100.0)),
        (0.03, 0.3, (0.05, 0.1, 0.2)),
        (1.1, 1.65, (1.1, 1.2, 1.3, 1.4, 1.5, 1.6)),
    ],
)
def test_a_logarithmic_axis_has_powers_or_else_round_numbers(low, high, expected):
    assert log_ticks(low, high) == pytest.approx(expected)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9), st.booleans())
def test_values_lie_on_the_axis_in_their_order(values, log):
    found = scale(Axis("x", log=log), values, 10.0, 210.0)
    places = [found(v) for v in sorted(values)]
    assert places == sorted(places)
    assert all(10.0 - 1e-6 <= p <= 210.0 + 1e-6 for p in places)


def test_a_logarithmic_axis_has_no_zero():
    found = scale(Axis("x", log=True), [0.0, 1.0, 10.0], 0.0, 1.0)
    assert not found.holds(0.0) and found.holds(1.0)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.25, "0.25"), (0, "0"), (16384, "16.38k"), (1500, "1.5k"), (2e6, "2M"), (1e-4, "1e−4"),
     (-0.5, "−0.5"), (256, "256"), (1024, "1024")],
)  # fmt: skip
def test_numbers_are_short_and_right(value, said):
    assert told(value) == said
