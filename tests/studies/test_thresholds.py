"""Thresholds against trying every one; intervals and scores against other libraries' own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from sae_cli.errors import DataError
from sae_cli.studies.watch.thresholds import exact_interval, threshold
from sae_cli.studies.watch.verdicts import Tally

ONE_SIDED = "some resamples have one label alone"


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.25]), min_size=4, max_size=40),
    st.sampled_from([0.25, 0.3, 0.5, 0.9]),
)
def test_it_is_the_smallest_that_few_enough_texts_are_above(
    scores: list[float], target: float
) -> None:
    found, above = threshold(scores, target)
    allowed = target * len(scores)
    assert above == sum(s > found for s in scores) <= allowed + 1e-9
    for smaller in (t for t in {*scores, *(s - 0.01 for s in scores)} if t < found):
        assert sum(s > smaller for s in scores) > allowed - 1e-9


def test_the_share_of_texts_is_exact_where_floats_are_not() -> None:
    assert int(0.29 * 100) == 28
    assert threshold([float(i) for i in range(100)], 0.29) == (70.0, 29)


@pytest.mark.parametrize(
    ("n", "target", "needed"), [(99, 0.01, "100"), (1, 0.3, "4"), (0, 0.5, "2"), (9, 3e-4, "3,334")]
)
def test_too_few_texts_are_refused_with_how_many_it_takes(
    n: int, target: float, needed: str
) -> None:
    with pytest.raises(DataError, match=f"needs {needed} negative texts at least.* there are {n}"):
        threshold([1.0] * n, target)
    enough = int(needed.replace(",", ""))
    threshold([float(i) for i in range(enough)], target)
    with pytest.raises(DataError):
        threshold([1.0] * (enough - 1), target)


def test_new_texts_fire_about_as_often_as_was_aimed_at() -> None:
    dice = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        found, _ = threshold(dice.normal(size=500).tolist(), 0.05)
        rates.append((dice.normal(size=2000) > found).mean())
    assert float(np.mean(rates)) == pytest.approx(26 / 501, abs=0.002)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 30), (3, 250), (100, 100), (7, 9)])
def test_the_interval_is_that_of_clopper_and_pearson(hits: int, n: int) -> None:
    exact = binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert exact_interval(hits, n) == pytest.approx((exact.low, exact.high))


def test_a_verdict_counts_as_other_libraries_do() -> None:
    dice = np.random.default_rng(1)
    label = dice.random(300) < 0.4
    score = np.round(dice.normal(size=300) + label, 1)
    tally = Tally()
    for s, true in zip(score, label, strict=True):
        tally.add(float(s), bool(s > 0.5), bool(true))
    found = tally.verdict()
    fired = score > 0.5
    assert found.texts == len(tally) == 300
    assert found.true_positives == int((fired & label).sum())
    assert found.false_positives == int((fired & ~label).sum())
    assert found.false_negatives == int((~fired & label).sum())
    assert found.true_negatives == int((~fired & ~label).sum())
    assert found.precision.value == pytest.approx(precision_score(label, fired))
    assert found.recall.value == pytest.approx(recall_score(label, fired))
    assert found.fpr.value == pytest.approx(fired[~label].mean())
    assert found.auroc.value == pytest.approx(roc_auc_score(label, score))
    for each in (found.precision, found.recall, found.fpr, found.auroc):
        assert each.low is not None and each.high is not None and each.value is not None
        assert 0 <= each.low < each.value < each.high <= 1 and each.reason is None


def test_scores_that_differ_in_their_last_bits_are_no_ties() -> None:
    tally = Tally()
    for i in range(20):
        tally.add(1.0 + i * 2.0**-52, False, i >= 10)
    assert tally.verdict().auroc.value == 1.0


@pytest.mark.parametrize(
    ("labels", "fired", "reasons"),
    [
        ([True] * 9, True, (None, None, "no text is labelled false", "no text is labelled false")),
        ([False] * 9, True, (None, "no text is labelled true", None, "no text is labelled true")),
        ([True, False] * 5, False, ("the rule fired on no labelled text", None, None, None)),
        ([True, False], True, (None, None, None, "no interval: fewer than 8 texts")),
        ([True] + [False] * 20, True, (None, None, None, f"no interval: {ONE_SIDED}")),
    ],
)  # fmt: skip
def test_what_can_not_be_said_is_null_with_a_reason(
    labels: list[bool], fired: bool, reasons: tuple[str | None, ...]
) -> None:
    tally = Tally()
    for i, label in enumerate(labels):
        tally.add(float(i), fired, label)
    found = tally.verdict()
    four = (found.precision, found.recall, found.fpr, found.auroc)
    assert tuple(each.reason for each in four) == reasons
    for each in four:
        assert (each.value is None) == (each.reason is not None and "interval" not in each.reason)
        assert (each.low is None) == (each.reason is not None)
