"""A sparse probe: which latents it reads, and how strongly it is held back.

Both are decided on training texts alone; nothing here is ever handed a test label. The logistic
regression is scikit-learn's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sae_cli.studies.probe.scores import Bools, Floats

ROWS = 256
"""Texts read at once where all features of them are."""
_STEPS = 1000
Features = NDArray[np.float32]


def apart(features: Features, rows: Sequence[int], truth: Bools) -> NDArray[np.int64]:
    """Features by how far apart the two labels' means are, |mean of positive − mean of negative|,
    the farthest first, equal ones in their own order: int64 [m].

    Of the texts `rows` of `features` [n, m] alone; `truth` [len(rows)] are their labels.
    """
    sums = np.zeros((2, features.shape[1]))
    for start in range(0, len(rows), ROWS):
        some = features[np.asarray(rows[start : start + ROWS])].astype(np.float64)
        labels = truth[start : start + ROWS]
        sums[0] += some[~labels].sum(0)
        sums[1] += some[labels].sum(0)
    means = sums / np.array([[(~truth).sum()], [truth.sum()]])
    return np.argsort(-np.abs(means[1] - means[0]), kind="stable")


@dataclass(frozen=True)
class Probe:
    """A logistic regression on standardised features."""

    scaler: StandardScaler
    model: LogisticRegression
    strength: float
    """The inverse strength C of its penalty."""

    def chance(self, x: Floats) -> Floats:
        """float64 [n]: that each of `x` [n, k] is positive."""
        at = list(self.model.classes_).index(True)
        found: Floats = self.model.predict_proba(self.scaler.transform(x))[:, at]
        return found


def fitted(x: Floats, truth: Bools, *, strengths: Sequence[float], folds: int, seed: int) -> Probe:
    """The probe on training texts `x` [n, k] and their labels, with the strength whose
    cross-validated log loss is least (of equals, the first).

    One thread: problems this small are slower with several.
    """
    with threadpool_limits(1, user_api="blas"):
        return _chosen(x, truth, strengths, folds, seed)


def _chosen(x: Floats, truth: Bools, strengths: Sequence[float], folds: int, seed: int) -> Probe:
    if len(strengths) == 1:
        return _fit(x, truth, strengths[0])
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    loss = np.zeros(len(strengths))
    for train, left_out in cut.split(x, truth):
        for i, strength in enumerate(strengths):
            said = _fit(x[train], truth[train], strength).chance(x[left_out])
            right = np.where(truth[left_out], said, 1 - said)
            loss[i] -= np.log(np.maximum(right, np.finfo(np.float64).tiny)).sum()
    return _fit(x, truth, strengths[int(loss.argmin())])


def _fit(x: Floats, truth: Bools, strength: float) -> Probe:
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=strength, max_iter=_STEPS)
    with warnings.catch_warnings():
        # A probe that has all but converged after so many steps is still a probe.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaler.transform(x), truth)
    return Probe(scaler, model, strength)
