"""How well a feature tells harmful prompts from harmless ones, in float64.

For values a_n of a feature on harmful prompts and b_m on harmless ones, at one place:

    difference  mean a - mean b
    rate        share of a that is not zero - share of b
    d           (mean a - mean b) / s,  s^2 = ((n - 1) var a + (m - 1) var b) / (n + m - 2)
                (Cohen 1988, section 2.2); 0 where s is 0
    auroc       share of pairs (a, b) with a > b, ties half
    cosine      of its decoder row with the difference of the mean activations of both, at the last
                prompt token

The score by which features are put on the shortlist is the share of that direction which the
feature brings about, marked down by what it does on matched harmless prompts, of mean c:

    (difference - penalty * spill) * cosine,  spill = mean c - mean b, cut to lie between 0 and
    the difference

over the sum of its absolute values over all features, so that places can be compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


def difference(a: Floats, b: Floats) -> Floats:
    """[m] of values [n, m] on either kind."""
    found: Floats = a.mean(0) - b.mean(0)
    return found


def rate(a: Floats, b: Floats) -> Floats:
    """[m]."""
    found: Floats = (a != 0).mean(0) - (b != 0).mean(0)
    return found


def cohen_d(a: Floats, b: Floats) -> Floats:
    """[m]."""
    n, m = len(a), len(b)
    pooled = ((n - 1) * a.var(0, ddof=1) + (m - 1) * b.var(0, ddof=1)) / (n + m - 2)
    s = np.sqrt(pooled)
    found: Floats = np.divide(difference(a, b), s, out=np.zeros_like(s), where=s > 0)
    return found


def auroc(a: Floats, b: Floats) -> Floats:
    """[m]."""
    ranks = rankdata(np.concatenate([a, b]), axis=0)
    n, m = len(a), len(b)
    found: Floats = (ranks[:n].sum(0) - n * (n + 1) / 2) / (n * m)
    return found


def spill(a: Floats, b: Floats, c: Floats) -> Floats:
    """[m]: how far matched harmless prompts go the way of harmful ones."""
    whole, there = difference(a, b), difference(c, b)
    found: Floats = np.clip(there, np.minimum(whole, 0), np.maximum(whole, 0))
    return found


def scores(a: Floats, b: Floats, c: Floats, cosines: Floats, penalty: float) -> Floats:
    """[m]: see above; zeros where no feature differs at all."""
    own = (difference(a, b) - penalty * spill(a, b, c)) * cosines
    whole = np.abs(own).sum()
    found: Floats = own / whole if whole > 0 else np.zeros_like(own)
    return found
