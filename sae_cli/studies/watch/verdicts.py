"""How well rules told labelled texts apart: counts, rates with exact intervals, AUROC.

    precision_v1 = TP / (TP + FP)    recall_v1 = TP / (TP + FN)    fpr_v1 = FP / (FP + TN)
    auroc_v1     = share of pairs, one positive and one negative text, whose positive scores higher;
                   ties are half (Mann and Whitney 1947)

Intervals of rates are Clopper and Pearson's; that of the AUROC is a bootstrap over texts
(`resample`). What can't be computed is null with a reason. Of each labelled text, score and label
are kept, nothing else.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from sae_cli.studies import resample
from sae_cli.studies.scores import auroc_of
from sae_cli.studies.watch.thresholds import exact_interval


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its 95 % interval, or why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    """Why there is no value, or no interval."""


@dataclass(frozen=True)
class Verdict:
    """A rule against the labels."""

    texts: int
    """Labelled ones with a score."""
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    precision: Estimate
    recall: Estimate
    fpr: Estimate
    auroc: Estimate


class Tally:
    """The labelled texts of one rule, as they go by."""

    def __init__(self) -> None:
        self._scores, self._labels, self._fired = array("d"), array("b"), array("b")

    def __len__(self) -> int:
        return len(self._scores)

    def add(self, score: float, fired: bool, label: bool) -> None:
        """A text with a score."""
        self._scores.append(score)
        self._fired.append(fired)
        self._labels.append(label)

    def verdict(self) -> Verdict:
        """Of all texts so far."""
        scores = np.frombuffer(self._scores, np.float64) if len(self) else np.zeros(0)
        label = np.array(self._labels, dtype=bool)
        fired = np.array(self._fired, dtype=bool)
        tp, fp = int((fired & label).sum()), int((fired & ~label).sum())
        fn, tn = int((~fired & label).sum()), int((~fired & ~label).sum())
        return Verdict(
            len(self),
            tp,
            fp,
            fn,
            tn,
            _rate(tp, tp + fp, "the rule fired on no labelled text"),
            _rate(tp, tp + fn, "no text is labelled true"),
            _rate(fp, fp + tn, "no text is labelled false"),
            _auroc(scores, label),
        )


def _rate(hits: int, n: int, why_not: str) -> Estimate:
    if n == 0:
        return Estimate(None, reason=why_not)
    return Estimate(hits / n, *exact_interval(hits, n))


def _auroc(scores: np.ndarray, label: np.ndarray) -> Estimate:
    if not label.any() or label.all():
        side = "true" if not label.any() else "false"
        return Estimate(None, reason=f"no text is labelled {side}")
    value = auroc_of(scores, label)
    units = np.arange(len(scores)) % resample.UNITS
    count = min(len(scores), resample.UNITS)
    drawn = resample.aurocs(scores, label, units, resample.draws(count))
    low, high = resample.ends(drawn, count)
    if low is not None:
        return Estimate(value, low, high)
    few = count < resample.FEWEST
    why = f"fewer than {resample.FEWEST} texts" if few else "some resamples have one label alone"
    return Estimate(value, reason=f"no interval: {why}")
