"""Scores of predictions, against definitions written out pair by pair in float64."""

from __future__ import annotations

import numpy as np
import pytest

from sae_cli.studies.probe.scores import SCORES, Bools, Floats, draws, scores
from sae_cli.studies.resample import RESAMPLES, ends


def _by_hand(chance: list[float], truth: list[bool]) -> list[float]:
    """One text, one pair at a time."""
    pairs = list(zip(chance, truth, strict=True))
    right = sum((c >= 0.5) == t for c, t in pairs) / len(pairs)
    yes, no = ([c for c, t in pairs if t is kind] for kind in (True, False))
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a in yes for b in no]
    hit = sum(c >= 0.5 and t for c, t in pairs)
    said, there = sum(c >= 0.5 for c, _ in pairs), len(yes)
    precision, recall = hit / said if said else 0.0, hit / there
    f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
    return [right, sum(won) / len(won), f1]


def _texts(n: int) -> tuple[Floats, Bools]:
    dice = np.random.default_rng(3)
    truth = dice.random(n) < 0.4
    return np.round(np.clip(0.3 * truth + dice.random(n) * 0.7, 0, 1), 1), truth  # many ties


def test_scores_are_what_their_definitions_give() -> None:
    chance, truth = _texts(57)
    found = scores(chance, truth)
    assert found.shape == (len(SCORES), 1 + RESAMPLES)
    assert found[:, 0] == pytest.approx(_by_hand(chance.tolist(), truth.tolist()), abs=1e-12)


def test_a_resample_scores_as_its_texts_do_when_they_are_written_out() -> None:
    chance, truth = _texts(31)
    found = scores(chance, truth)
    for r in (1, 2, 500):
        often = draws(31)[r].astype(int)
        assert often.sum() == 31 and often.max() > 1
        written = np.repeat(chance, often).tolist(), np.repeat(truth, often).tolist()
        assert found[:, r] == pytest.approx(_by_hand(*written), abs=1e-12)


def test_ends_are_quantiles_and_a_resample_without_a_score_has_none() -> None:
    values = np.arange(RESAMPLES, dtype=np.float64)
    assert ends(values, 20) == pytest.approx((24.975, 974.025))
    assert ends(values, 7) == (None, None)
    values[3] = np.nan
    assert ends(values, 20) == (None, None)


def test_an_auroc_of_one_label_is_no_number() -> None:
    found = scores(np.array([0.1, 0.9, 0.8]), np.array([True, True, True]))
    assert np.isnan(found[1]).all() and found[0, 0] == pytest.approx(2 / 3)
