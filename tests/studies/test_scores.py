"""F1 and AUROC of every feature and label, against counts and scipy's rank test, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from sae_cli.studies import resample, scores
from sae_cli.studies.scores import Columns


def of(values: torch.Tensor) -> Columns:
    return lambda start, stop: values[start:stop]


def made(seed: int, features: int = 9, tokens: int = 200, labels: int = 4) -> Any:
    """Sparse, dense and tied columns; labels that follow some of them."""
    dice = np.random.default_rng(seed)
    values = dice.standard_normal((features, tokens)).astype(np.float32)
    values[:3] = np.maximum(values[:3] - 1, 0)
    values[3:6] = values[3:6].round(1)
    has = dice.random((tokens, labels)) < 0.2
    has[:, 0] |= values[0] > 0.3
    has[:, 1] |= values[7] < -1
    return values, has


def f1_score(label: Any, called: Any) -> float:
    """From precision and recall, of whole numbers."""
    true = int(np.sum(label & called))
    if not true:
        return 0.0
    precision, recall = true / int(called.sum()), true / int(label.sum())
    return 2 * precision * recall / (precision + recall)


def roc_auc_score(label: Any, values: Any) -> float:
    """Mann and Whitney's U over the number of pairs."""
    one, other = values[label], values[~label]
    return float(mannwhitneyu(one, other).statistic) / (len(one) * len(other))


def best_f1(values: Any, label: Any) -> tuple[float, float]:
    """The best F1 and its largest threshold, by trying each."""
    tried = [(f1_score(label, values > t), t) for t in np.unique(values)]
    return max(tried)


@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_of_a_reference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values, has = made(seed)
    monkeypatch.setattr(scores, "CELLS", 500)  # two features at a time
    found = scores.table(of(torch.from_numpy(values)), len(values), torch.from_numpy(has))
    for i, feature in enumerate(values):
        for j, label in enumerate(has.T):
            f1, t = best_f1(feature, label)
            assert found.f1[i, j] == pytest.approx(f1, abs=1e-12)
            assert found.auroc[i, j] == pytest.approx(roc_auc_score(label, feature), abs=1e-12)
            assert f1_score(label, feature > scores.threshold(feature, label)) == pytest.approx(f1)
            assert scores.f1_of(feature > t, label) == pytest.approx(f1, abs=1e-12)
            auroc = scores.auroc_of(feature, label)
            assert auroc == pytest.approx(found.auroc[i, j], abs=1e-12)


def test_a_perfect_latent_its_opposite_and_a_constant() -> None:
    label = np.arange(40) % 4 == 0
    perfect = np.where(label, 2.0, 0.0).astype(np.float32)
    values = np.stack([perfect, 2 - perfect, np.ones_like(perfect), np.zeros_like(perfect)])
    found = scores.table(of(torch.from_numpy(values)), 4, torch.from_numpy(label[:, None]))
    assert found.f1[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert found.auroc[:, 0].tolist() == [1.0, 0.0, 0.5, 0.5]
    assert scores.threshold(perfect, label) == 0.0, "it fires, that is all"
    assert not (values[2] > scores.threshold(values[2], label)).any()


def test_a_resample_is_the_same_as_measuring_what_was_drawn() -> None:
    values, has = made(7, tokens=300)
    units, n = resample.units_of(np.arange(300) // 25)
    often = resample.draws(n)
    assert n == 12 and (often.sum(1) == n).all()
    feature, label = values[4], has[:, 0]
    f1s = resample.f1s(feature > 0.5, label, units, often)
    aurocs = resample.aurocs(feature, label, units, often)
    for row in (0, 1, 500):
        drawn = np.repeat(np.arange(300), often[row].astype(int)[units])
        assert f1s[row] == pytest.approx(f1_score(label[drawn], feature[drawn] > 0.5), abs=1e-12)
        want = roc_auc_score(label[drawn], feature[drawn])
        assert aurocs[row] == pytest.approx(want, abs=1e-12)


def test_a_resample_that_lacks_a_side_has_no_auroc_and_the_figure_no_interval() -> None:
    label = np.arange(20) < 2
    units, n = resample.units_of(np.arange(20))
    found = resample.aurocs(np.arange(20, dtype=np.float32), label, units, resample.draws(n))
    assert np.isnan(found).any()
    assert resample.ends(found, n) == (None, None)
    assert resample.ends(np.ones(1000), 7) == (None, None), "of few units there is none"
    low, high = resample.ends(np.linspace(0, 1, 1001), 8)
    assert (low, high) == (pytest.approx(0.025), pytest.approx(0.975))
