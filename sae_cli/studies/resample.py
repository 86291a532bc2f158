"""How sure a study's figure is: resamples of whole documents or pairs, with replacement.

What is drawn is units, of which tokens of a document are one: they are not independent of each
other. Draws depend on how many units there are and on nothing else, so that figures that stand
beside each other are resampled alike. It refuses an interval of few units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES, SEED, LEVEL, FEWEST, UNITS = 1000, 0, 0.95, 8, 64
"""UNITS: most that are drawn; where there are more documents, the i-th belongs to i mod UNITS."""
METHOD = {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL}
Floats = NDArray[np.float64]


def draws(units: int) -> Floats:
    """How often each unit is in each resample: float64 `[RESAMPLES, units]`, rows add up to
    `units`."""
    dice = np.random.default_rng(SEED)
    return dice.multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype(np.float64)


def ends(values: Floats, units: int) -> tuple[float | None, float | None]:
    """The central LEVEL of a figure's values over resamples (Efron and Tibshirani 1993, section
    13.3); None where there are fewer than FEWEST units or a resample has no value."""
    if units < FEWEST or not np.isfinite(values).all():
        return None, None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def units_of(documents: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """The unit of each token by its document's number, and how many units there are."""
    _, number = np.unique(documents, return_inverse=True)
    number = number.reshape(-1).astype(np.int64) % UNITS
    return number, int(number.max(initial=-1)) + 1


def f1s(
    called: NDArray[np.bool_], label: NDArray[np.bool_], units: NDArray[np.int64], often: Floats
) -> Floats:
    """F1 in each resample, float64 `[RESAMPLES]`; 0 where nothing is called or labelled."""
    n = often.shape[1]
    true = often @ np.bincount(units[called & label], minlength=n)
    either = often @ (
        np.bincount(units[called], minlength=n) + np.bincount(units[label], minlength=n)
    )
    found: Floats = np.divide(2 * true, either, out=np.zeros_like(true), where=either > 0)
    return found


def aurocs(
    values: NDArray[np.float32],
    label: NDArray[np.bool_],
    units: NDArray[np.int64],
    often: Floats,
) -> Floats:
    """AUROC in each resample, float64 `[RESAMPLES]`, NaN where a resample lacks a side.

    A resample that holds unit u `c_u` times has sum c_u c_w W_uw pairs in order, where W counts the
    pairs of a labelled token of u and another of w whose values are in order, ties half: W is made
    once, and each resample is a quadratic form.
    """
    n = often.shape[1]
    order = np.argsort(values[label], kind="stable")
    mine, own = values[label][order], units[label][order]
    others, theirs = values[~label], units[~label]
    first = np.zeros((len(mine) + 1) * n)  # of a pair in order, the least labelled token
    for side in ("left", "right"):
        at = np.searchsorted(mine, others, side=side)
        first += np.bincount(at * n + theirs, minlength=len(first)) / 2
    below = first.reshape(-1, n)[:-1].cumsum(0)  # [labelled, units]: others that are smaller
    inside = np.zeros((n, len(mine)))
    inside[own, np.arange(len(mine))] = 1.0
    won = ((often @ (inside @ below)) * often).sum(1)
    labelled = often @ np.bincount(units[label], minlength=n)
    rest = often @ np.bincount(theirs, minlength=n)
    whole = labelled * rest
    found: Floats = np.divide(won, whole, out=np.full_like(won, np.nan), where=whole > 0)
    return found
