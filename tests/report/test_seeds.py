"""Means over seeds: the formula against an independent one, and who is grouped."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sae_cli.report.gather import Measured, Part
from sae_cli.report.seeds import Group, mean, t_interval


def integral(freedom: int, t: float) -> float:
    """P(T <= t) of Student's t: its density, integrated."""
    x = np.linspace(0, t, 200_001)
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = np.exp(log_scale) / math.sqrt(freedom * math.pi)
    density *= (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    return 0.5 + float(np.trapezoid(density, x))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 30])
def test_an_interval_is_students_t_of_the_mean(n):
    """Against the density of t, integrated: an independent float64 reference."""
    values = np.random.default_rng(n).normal(3, 2, n)
    low, high = t_interval(values.tolist())
    t = (high - values.mean()) / (values.std(ddof=1) / math.sqrt(n))
    assert integral(n - 1, t) == pytest.approx(0.975, abs=1e-6)
    assert (low + high) / 2 == pytest.approx(values.mean(), rel=1e-12)


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


def test_what_compares_seeds_has_a_mean_and_no_interval():
    """Each pair of SAEs is in the figures of both, so that these are no independent draws."""
    members = []
    for value in (1.0, 2.0, 3.0):
        own = part(value)
        studies = [
            replace(own, slice=f"of {name}", study=SimpleNamespace(name=name))
            for name in ("truth", "stability")
        ]
        members.append(SimpleNamespace(parts=[own, *studies]))
    found = {parts[0].slice: numbers["m"] for parts, numbers in Group(tuple(members)).parts()}
    assert [each.value for each in found.values()] == [2.0, 2.0, 2.0]
    assert found["of truth"].interval == found["kept"].interval is not None
    assert found["of stability"].interval is None
