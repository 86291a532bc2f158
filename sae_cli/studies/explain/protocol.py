"""How an explanation is scored: on windows of held-out documents, half of which speak against it.

The protocol is delphi's (Paulo et al. 2024, arXiv 2410.13928, section 3.2):

- detection: does the latent fire somewhere in this window? As many windows where it does as
  where it does not.
- fuzzing: are the marked tokens those on which it fires? Each window in which it does, once with
  the tokens marked that have at least MARKED of its largest activation there, and once with as
  many others, drawn from those on which it does not fire. (delphi's `active` kind: that it fires
  somewhere is no help.)

Windows with it are drawn from bins of equal counts by their largest activation; no bin has zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sae_cli.studies.explain.arrays import Acts, Flags, Ints
from sae_cli.studies.explain.text import Text
from sae_cli.studies.explain.windows import Windows

MARKED = 0.3
"""Of a window's largest activation."""
FEWEST = 5
"""Windows of each kind, below which nothing is scored."""


@dataclass(frozen=True)
class Tally:
    """How a judge's answers compare with what is true."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, said: Flags, true: Flags) -> Tally:
        """Count answers `said [n]`."""
        return cls(
            int((said & true).sum()), int((said & ~true).sum()),
            int((~said & true).sum()), int((~said & ~true).sum()),
        )  # fmt: skip

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP); None where nothing was affirmed."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else None

    @property
    def recall(self) -> float:
        """TP / (TP + FN)."""
        return self.tp / (self.tp + self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of TP / (TP + FN) and TN / (TN + FP)."""
        return (self.recall + self.tn / (self.tn + self.fp)) / 2

    def scores(self) -> dict[str, float | None]:
        """All of them, by name."""
        return {
            "f1": self.f1,
            "balanced_accuracy": self.balanced_accuracy,
            "precision": self.precision,
            "recall": self.recall,
        }


@dataclass(frozen=True)
class Examples:
    """Windows that are judged of one latent, with it and without it mixed."""

    numbers: Ints
    """[n]"""
    fires: Flags
    """[n]: whether it does."""
    shown: Ints
    """[m]: the windows with marks, by number."""
    marks: Flags
    """[m, size]"""
    right: Flags
    """[m]: whether the marks are."""
    bins: list[tuple[float, float, int]]
    """The lowest and the largest maximum of each bin, and windows drawn from it."""


def examples(
    text: Text, windows: Windows, latent: int, most: int, bins: int, seed: int
) -> Examples | str:
    """Those of the latent at `latent`, at most `most` of each kind; or why there are none."""
    numbers, values = windows.with_it(latent)
    others = windows.without_it(latent)
    n = min(most, len(numbers), len(others))
    if n < FEWEST:
        few, kind = (len(numbers), "with") if len(numbers) < FEWEST else (len(others), "without")
        return f"{few} held-out windows {kind} the latent, fewer than {FEWEST}"
    dice = np.random.default_rng([seed, int(windows.latents[latent])])
    chosen, drawn = binned(values.max(1), n, bins)
    numbers, values = numbers[chosen], values[chosen]
    _, keep, _ = text.windows(numbers)
    right = values >= MARKED * values.max(1, keepdims=True)
    wrong = np.stack([_others(*each, dice) for each in zip(values, keep, right, strict=True)])
    usable = np.append(np.ones(n, dtype=bool), wrong.any(1))
    order, fuzzed = dice.permutation(2 * n), dice.permutation(np.flatnonzero(usable))
    return Examples(
        np.append(numbers, others[:n])[order],
        np.repeat([True, False], n)[order],
        np.append(numbers, numbers)[fuzzed],
        np.concatenate([right, wrong])[fuzzed],
        np.repeat([True, False], n)[fuzzed],
        drawn,
    )


def binned(largest: Acts, n: int, bins: int) -> tuple[Ints, list[tuple[float, float, int]]]:
    """Which `n` of windows, in a random order already, whose largest activations are given.

    Sorted by these and cut into `bins` of equal counts, each gives its first n / bins; what is left
    over goes to the bins of the largest. Returns the indices and what each bin held.
    """
    parts = [p for p in np.array_split(np.argsort(largest, kind="stable"), bins) if len(p)]
    share = [n // len(parts)] * len(parts)
    for i in range(n - sum(share)):
        share[-1 - i % len(parts)] += 1
    spare = 0
    for i, part in enumerate(parts):  # a bin may hold fewer than its share
        over = max(0, share[i] - len(part))
        share[i], spare = share[i] - over, spare + over
    for i, part in enumerate(parts):
        more = min(spare, len(part) - share[i])
        share[i], spare = share[i] + more, spare - more
    chosen = [np.sort(part)[:take] for part, take in zip(parts, share, strict=True)]
    ends = [
        (float(largest[part[0]]), float(largest[part[-1]]), take)
        for part, take in zip(parts, share, strict=True)
    ]
    return np.concatenate(chosen), ends


def _others(values: Acts, keep: Flags, right: Flags, dice: np.random.Generator) -> Flags:
    """As many tokens as are marked, of those that count and on which it does not fire; fewer where
    there are fewer."""
    silent = np.flatnonzero(keep & (values == 0))
    out = np.zeros(len(values), dtype=bool)
    out[dice.permutation(silent)[: int(right.sum())]] = True
    return out
