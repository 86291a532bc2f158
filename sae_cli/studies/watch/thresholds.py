"""A threshold from a target false-positive rate, and how sure a rate of counts is.

With scores s of n negative texts and a target r, k = floor(r n) of them may fire, and the threshold
is the (k + 1)-th largest score: the smallest number above which at most k scores lie. It refuses a
target that n texts can't tell from none at all, r n < 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from sae_cli.errors import DataError

LEVEL = 0.95


def threshold(scores: Sequence[float], target: float) -> tuple[float, int]:
    """The threshold, and how many of `scores` are above it. A rule fires above its threshold.

    Raises DataError where there are too few scores for the target.
    """
    rate = Fraction(repr(target))
    allowed = int(rate * len(scores))
    if allowed < 1:
        needed = -(-rate.denominator // rate.numerator)
        raise DataError(
            f"a false-positive rate of {target:g} needs {needed:,} negative texts at least, and "
            f"there are {len(scores):,}",
            hint="bring more texts that the rule should not fire on, or a larger target_fpr",
        )
    found = sorted(scores, reverse=True)[allowed]
    return found, sum(score > found for score in scores)


def exact_interval(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a rate of `hits` of `n` > 0 (Clopper and Pearson 1934): exact of the
    binomial, so never too narrow."""
    from scipy.special import betaincinv

    tail = (1 - LEVEL) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high
