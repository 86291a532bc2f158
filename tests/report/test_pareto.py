"""Pareto fronts against every pair of points, and in the metric's own direction."""

from __future__ import annotations

import random

from report.rows import sae

from sae_cli.report.pareto import front, fronts


def dominated(point, others):
    return any(
        o[0] <= point[0] and o[1] <= point[1] and o != point for o in others
    )  # <= in both and another point: better in one of them


def test_the_front_is_every_point_that_no_other_dominates():
    draw = random.Random(0)
    for _ in range(50):
        points = [(draw.randrange(8), draw.randrange(8)) for _ in range(12)]
        expected = {i for i, p in enumerate(points) if not dominated(p, points)}
        found = front(points)
        assert set(found) == expected
        assert [points[i] for i in found] == sorted(points[i] for i in expected)


def test_a_metric_that_should_be_high_has_the_mirrored_front():
    few = [
        sae(key, metrics={"l0_v1": l0, "ce_recovered.zero_v1": share, "fvu.pooled_v1": 1 - share})
        for key, l0, share in (("a", 4.0, 0.5), ("b", 8.0, 0.9), ("c", 9.0, 0.8), ("d", 2.0, 0.1))
    ]
    (up,), (down,) = fronts(few, "ce_recovered.zero_v1"), fronts(few, "fvu.pooled_v1")
    assert up.train_keys == down.train_keys == ("d", "a", "b")
    assert up.values == (0.1, 0.5, 0.9) and up.of == 4


def test_places_have_fronts_of_their_own_and_a_null_is_on_none():
    rows = [
        sae("a", metrics={"l0_v1": 4.0, "fvu.pooled_v1": 0.5}),
        sae("b", metrics={"l0_v1": 5.0, "fvu.pooled_v1": 0.6}, layer=3),
        sae("c", metrics={"l0_v1": 1.0, "fvu.pooled_v1": None}),
    ]
    assert [f.train_keys for f in fronts(rows, "fvu.pooled_v1")] == [("a",), ("b",)]
