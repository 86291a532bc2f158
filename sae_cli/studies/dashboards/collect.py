"""What one SAE's features do in a text, taken up batch by batch.

Work grows with the activations that are not zero, never with features times tokens: those come as
a list (token, feature, value), are joined to (window, feature) pairs by one sort, and everything
else is sums and comparisons over these. Per feature it keeps counts, a histogram, the windows with
the largest peaks, a fair sample of those in which it fires, and in which of a few windows, the same
for all features, it does not. The result is a function of the text alone, however it is cut up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_cli.store.dashboards import NONE, Examples
from sae_cli.studies.dashboards.best import Best
from sae_cli.studies.explain.windows import NONE as NO_HASH
from sae_cli.studies.explain.windows import paired

Ints = NDArray[np.int64]
BINS_PER_OCTAVE, OCTAVES = 4, (-16, 16)
EDGES = 2.0 ** np.arange(
    OCTAVES[0], OCTAVES[1] + 1 / BINS_PER_OCTAVE, 1 / BINS_PER_OCTAVE, dtype=np.float64
).astype(np.float32)
"""Edges of the histogram, `log_histogram_v1`: four bins for each factor of two, from 2^-16 to
2^16; the first and the last hold all that is smaller or larger."""
POOL_SEED = 0x1D7E
"""The seed of which windows are looked at for features that do not fire, moved off the sample's."""


@dataclass(frozen=True)
class Sizes:
    """How much is kept of every feature."""

    window: int = 32
    """Tokens of an example."""
    top: int = 16
    groups: int = 5
    """Quantile groups of the sample."""
    each: int = 3
    """Examples of a group."""
    idle: int = 3
    pool: int = 64
    """Windows that examples of not firing are taken from."""
    seed: int = 0

    @property
    def sample(self) -> int:
        """Windows of the sample."""
        return self.groups * self.each


class Collector:
    """Takes up what the features of one SAE do."""

    def __init__(self, features: int, n_windows: int, sizes: Sizes) -> None:
        """`n_windows` is how many the whole text has."""
        self.sizes, self.features = sizes, features
        self.tokens = 0
        self.fired = np.zeros(features, np.int64)
        self.total = np.zeros(features, np.float64)
        self.largest = np.zeros(features, np.float32)
        self.windows = np.zeros(features, np.int64)
        self.histogram = np.zeros((features, len(EDGES) - 1), np.int32)
        self._top = Best(features, sizes.top, sizes.window, np.float64(np.inf))
        self._sample = Best(features, sizes.sample, sizes.window, NO_HASH)
        self._pool = pool(n_windows, sizes)
        self._counts = np.zeros(len(self._pool), bool)
        self._fires = np.zeros((len(self._pool), features), bool)

    def add(
        self,
        keep: NDArray[np.bool_],
        first_window: int,
        token: Ints,
        feature: Ints,
        value: NDArray[np.float32],
    ) -> None:
        """The next blocks: `keep [b, C]` says which tokens count, and the first of their windows is
        number `first_window`. On tokens `token [n]` (ascending, counted through the blocks; all
        count) features `feature [n]` fire with `value [n]`, above zero."""
        context = keep.shape[1]
        self.tokens += int(keep.sum())
        self._see_pool(keep, first_window)
        self.fired += np.bincount(feature, minlength=self.features)
        self.total += np.bincount(feature, value.astype(np.float64), self.features)
        np.maximum.at(self.largest, feature, value)
        bins = np.clip(np.searchsorted(EDGES, value, side="right") - 1, 0, len(EDGES) - 2)
        np.add.at(self.histogram, (feature, bins), 1)
        if len(token):
            self._see_windows(context, first_window, token, feature, value)

    def _see_windows(
        self, context: int, first: int, token: Ints, feature: Ints, value: NDArray[np.float32]
    ) -> None:
        size = self.sizes.window
        per = -(-context // size)
        block, at = np.divmod(token, context)
        window, place = block * per + at // size, at % size
        pair = window * self.features + feature
        order = np.argsort(pair, kind="stable")
        pair, value, place = pair[order], value[order], place[order]
        starts = np.flatnonzero(np.diff(pair, prepend=-1))
        ends = np.append(starts[1:], len(pair))
        number, of = np.divmod(pair[starts], self.features)
        number += first
        peak = np.maximum.reduceat(value, starts)
        self.windows += np.bincount(of, minlength=self.features)

        def values(chosen: Ints) -> NDArray[np.float32]:
            out = np.zeros((len(chosen), size), np.float32)
            counts = ends[chosen] - starts[chosen]
            rows = np.repeat(np.arange(len(chosen)), counts)
            inside = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            source = np.repeat(starts[chosen], counts) + inside
            out[rows, place[source]] = value[source]
            return out

        self._top.add(of, -peak.astype(np.float64), number, values)
        self._sample.add(of, paired(self.sizes.seed, number, of), number, values)
        slot = np.atleast_1d(np.searchsorted(self._pool, number))
        there = self._pool[np.minimum(slot, len(self._pool) - 1)] == number
        self._fires[slot[there], of[there]] = True

    def _see_pool(self, keep: NDArray[np.bool_], first: int) -> None:
        per = -(-keep.shape[1] // self.sizes.window)
        ends = np.array([first, first + len(keep) * per])
        start, stop = map(int, np.searchsorted(self._pool, ends))
        for slot in range(start, stop):
            block, window = divmod(int(self._pool[slot]) - first, per)
            at = window * self.sizes.window
            self._counts[slot] = bool(keep[block, at : at + self.sizes.window].any())

    def top(self) -> Examples:
        """The windows with the largest peaks, largest first; of equal ones the earlier."""
        return self._top.found()

    def sample(self) -> tuple[Examples, NDArray[np.int8]]:
        """A sample of the windows in which each feature fires, by peak, and their groups: the
        windows, in order, cut into equal numbers, so that a group is a range of peaks."""
        found = self._sample.found()
        n = (found.number != NONE).sum(1)
        peak = np.where(found.number == NONE, -np.inf, found.peak)
        order = np.lexsort((found.number, -peak), axis=1)
        number = np.take_along_axis(found.number, order, axis=1)
        values = np.take_along_axis(found.values, order[:, :, None], axis=1)
        place = np.arange(number.shape[1])[None]
        groups = place * self.sizes.groups // np.maximum(n, 1)[:, None]
        groups = np.where(place < n[:, None], groups, NONE).astype(np.int8)
        return Examples(number, values), groups

    def idle(self) -> Ints:
        """[features, n]: the first windows of the pool in which a feature does not fire, beginning
        at another place for each feature."""
        there = np.flatnonzero(self._counts)
        out = np.full((self.features, self.sizes.idle), NONE, np.int64)
        if not len(there):
            return out
        filled = np.zeros(self.features, np.int64)
        features = np.arange(self.features)
        begin = paired(POOL_SEED, np.zeros(1, np.int64), features) % np.uint64(len(there))
        for step in range(len(there)):
            slot = there[(begin.astype(np.int64) + step) % len(there)]
            free = features[(~self._fires[slot, features]) & (filled < self.sizes.idle)]
            out[free, filled[free]] = self._pool[slot[free]]
            filled[free] += 1
        return out


def pool(n_windows: int, sizes: Sizes) -> Ints:
    """Numbers of the windows, ascending, that features are watched not to fire in."""
    n = min(sizes.pool, n_windows)
    numbers = np.arange(n_windows)
    rank = paired(sizes.seed + POOL_SEED, numbers, np.zeros(1, np.int64))
    chosen: Ints = np.sort(np.argsort(rank, kind="stable")[:n])
    return chosen
