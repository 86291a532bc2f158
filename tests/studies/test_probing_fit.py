"""A probe reads the latents that tell labels apart on training texts, and fits them."""

from __future__ import annotations

import numpy as np
import pytest

from sae_cli.studies.probe.fit import ROWS, apart, fitted

STRENGTHS = (0.001, 1.0, 1000.0)


def test_latents_are_ordered_by_how_far_apart_their_means_are() -> None:
    dice = np.random.default_rng(0)
    truth = dice.random(3 * ROWS + 5) < 0.3
    features = dice.normal(size=(len(truth) + 50, 9)).astype(np.float32)
    rows = dice.permutation(len(features))[: len(truth)].tolist()
    x = features[rows].astype(np.float64)
    gaps = [abs(x[truth, i].mean() - x[~truth, i].mean()) for i in range(9)]
    assert apart(features, rows, truth).tolist() == sorted(range(9), key=lambda i: -gaps[i])


def test_latents_that_are_equal_keep_their_order() -> None:
    features = np.zeros((4, 5), np.float32)
    truth = np.array([True, True, False, False])
    assert apart(features, range(4), truth).tolist() == [0, 1, 2, 3, 4]


def test_the_fit_is_the_least_of_its_penalised_loss() -> None:
    """At the optimum of C Σ log loss + |w|²/2 its gradient is zero, on standardised features."""
    dice = np.random.default_rng(1)
    truth = dice.random(300) < 0.5
    x = dice.normal(size=(300, 3)) * [1, 10, 0.1] + truth[:, None] * [0.8, 2, 0.0] + 5
    probe = fitted(x, truth, strengths=(0.5,), folds=5, seed=0)
    z = (x - x.mean(0)) / x.std(0)
    left = probe.chance(x) - truth
    gradient = 0.5 * z.T @ left + probe.model.coef_[0]
    assert np.abs(gradient).max() < 1e-2 and abs(left.sum()) < 1e-2


def test_noise_is_held_back_and_a_clear_label_is_not() -> None:
    dice = np.random.default_rng(2)
    truth = dice.random(60) < 0.5
    noise = dice.normal(size=(60, 20))
    assert fitted(noise, truth, strengths=STRENGTHS, folds=5, seed=0).strength == 0.001
    clear = truth[:, None] + 0.1 * noise[:, :1]
    assert fitted(clear, truth, strengths=STRENGTHS, folds=5, seed=0).strength == 1000.0


def test_a_latent_that_never_changes_predicts_the_more_frequent_label() -> None:
    truth = np.array([True] * 30 + [False] * 20)
    probe = fitted(np.zeros((50, 1)), truth, strengths=STRENGTHS, folds=5, seed=0)
    assert probe.chance(np.zeros((2, 1))) == pytest.approx([0.6, 0.6], abs=1e-3)
