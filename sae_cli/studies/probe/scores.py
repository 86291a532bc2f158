"""How good predictions of a binary label are, on test texts and on each resample of them.

Texts are independent, so they are what is drawn again, with replacement. A resample is a row of
counts, and every score is computed of counts, so that a thousand of them cost a few products.
Draws depend on how many texts there are and on nothing else: all probes of a data set are
resampled alike.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sae_cli.studies import resample

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SCORES = ("accuracy", "auroc", "f1")


@lru_cache(maxsize=8)
def draws(n: int) -> Floats:
    """How often each of n texts counts, float64 [1 + RESAMPLES, n]: first once each, then as often
    as each resample has drawn it."""
    return np.concatenate([np.ones((1, n)), resample.draws(n)])


def scores(chance: Floats, truth: Bools) -> Floats:
    """float64 [3, 1 + RESAMPLES]: each of SCORES, of all texts and of each resample.

    `chance` [n] is what a probe makes of each text: that it is positive. NaN where a resample has
    no score, as an AUROC of one label.
    """
    counts = draws(len(truth))
    said = chance >= 0.5
    return np.stack([
        accuracy(said, truth, counts), auroc(chance, truth, counts), f1(said, truth, counts)
    ])  # fmt: skip


def accuracy(said: Bools, truth: Bools, counts: Floats) -> Floats:
    """Share of texts whose label is said: [r] for `counts` [r, n]."""
    return _ratio(counts @ (said == truth), counts.sum(1))


def f1(said: Bools, truth: Bools, counts: Floats) -> Floats:
    """2 TP / (2 TP + FP + FN), of the positive label: [r] for `counts` [r, n]."""
    hits = counts @ (said & truth)
    return _ratio(2 * hits, 2 * hits + counts @ (said != truth))


def auroc(chance: Floats, truth: Bools, counts: Floats) -> Floats:
    """Share of pairs, one positive and one negative, whose positive has the larger `chance`; ties
    are half (Mann and Whitney 1947): [r] for `counts` [r, n]."""
    order = np.argsort(chance, kind="stable")
    ranked, counts = chance[order], counts[:, order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    positive = np.add.reduceat(counts * truth[order], starts, axis=1)
    negative = np.add.reduceat(counts * ~truth[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    won = (positive * (below + negative / 2)).sum(1)
    return _ratio(won, positive.sum(1) * negative.sum(1))


def _ratio(above: Floats, below: Floats) -> Floats:
    found: Floats = np.divide(above, below, out=np.full(len(below), np.nan), where=below != 0)
    return found
