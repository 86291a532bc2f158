"""Means over seeds: the formula against an independent one, and who is grouped."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sae_cli.report.gather import Measured, Part
from sae_cli.report.seeds import mean, t_interval, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 7, 10, 29, 30, 200])
@pytest.mark.parametrize("p", [0.5, 0.9, 0.975, 0.9995])
def test_quantiles_are_those_of_students_t(freedom, p):
    """Against its density, integrated: an independent float64 reference."""
    t = t_quantile(p, freedom)
    x = np.linspace(0, t, 200_001)
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = np.exp(log_scale) / math.sqrt(freedom * math.pi)
    density *= (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    assert 0.5 + float(np.trapezoid(density, x)) == pytest.approx(p, abs=1e-6)


def test_quantiles_and_intervals_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 8, 15, 120):
        for p in (0.55, 0.95, 0.975, 0.999):
            assert t_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-10)
    values = np.random.default_rng(0).normal(3, 2, 5)
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert t_interval(values.tolist()) == pytest.approx((low, high), rel=1e-10)


def test_a_table_of_the_field_has_the_same_quantiles():
    printed = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042}
    assert {n: round(t_quantile(0.975, n), 3) for n in printed} == printed


def test_equal_values_have_an_interval_of_no_width():
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def part(value, reason=None):
    return Part("kept", None, {"m": Measured(value, reason, (0.0, 9.0), 5)}, 10, 9)


def test_a_mean_is_of_all_seeds_and_its_interval_is_its_own():
    found = mean([part(1.0), part(2.0), part(3.0)], "m")
    assert found.value == 2.0 and found.documents is None
    assert found.interval == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_a_seed_without_a_value_leaves_no_mean_and_says_why():
    found = mean([part(1.0), part(None, "no token"), part(3.0)], "m")
    assert (found.value, found.interval) == (None, None)
    assert found.reason == "1 of 3 seeds have no value: no token"
