"""Which stored row comes when: shuffled, endless, and known at any position without the past.

Neighbouring rows come from one document, so order matters; single random rows from disk are slow.
So each epoch permutes the chunks, cuts them into pools of about `pool_tokens` kept rows, and
permutes the rows within each pool. Both permutations hang on (seed, epoch, pool) alone: a
restarted run at position p reads what the first would have read.

What is kept in memory grows with chunks and with a pool, never with rows. Permutations sort raw
64-bit words of Philox, a counter-based generator whose stream numpy guarantees across versions
(its `permutation` it does not).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNKS, _ROWS = 0, 1


@dataclass(frozen=True)
class Pool:
    """Rows that are shuffled together: those kept in `chunks`, `rows` of them.

    The stream reaches the first at position `start`. Pools of one array are named by epoch, index.
    """

    epoch: int
    index: int
    start: int
    rows: int
    chunks: tuple[int, ...]


@dataclass(frozen=True)
class _Plan:
    """One epoch: pool p holds chunks order[edges[p]:edges[p+1]], rows from starts[p] on."""

    order: NDArray[np.int64]
    edges: list[int]
    starts: list[int]


class Order:
    """The stream over an array of which chunk k has `kept[k]` rows that count.

    Some row must count. Not for several threads at once, but for `slots`.
    """

    def __init__(self, kept: NDArray[np.int64], pool_tokens: int, seed: int) -> None:
        self._kept, self._seed = kept, seed
        self.rows_per_epoch: int = int(kept.sum())
        assert pool_tokens > 0 and seed >= 0 and self.rows_per_epoch > 0
        self._pools = max(1, round(self.rows_per_epoch / pool_tokens))
        # A pool outgrows an even share by less than a chunk.
        self.most: int = -(-self.rows_per_epoch // self._pools) + int(kept.max())
        """No pool holds more rows."""
        self._plans: dict[int, _Plan] = {}

    def at(self, position: int) -> Pool:
        """The pool that holds row `position` of the stream."""
        epoch, offset = divmod(position, self.rows_per_epoch)
        return self._pool(epoch, bisect_right(self._plan(epoch).starts, offset) - 1)

    def after(self, pool: Pool) -> Pool:
        """The pool that follows, maybe in the next epoch."""
        return self.at(pool.start + pool.rows)

    def slots(self, pool: Pool) -> NDArray[np.int64]:
        """Where the pool's rows go, in the order of its chunks: a permutation of range(rows)."""
        return _permutation(pool.rows, self._seed, _ROWS, pool.epoch, pool.index)

    def _pool(self, epoch: int, index: int) -> Pool:
        plan = self._plan(epoch)
        chunks = plan.order[plan.edges[index] : plan.edges[index + 1]]
        start = epoch * self.rows_per_epoch + plan.starts[index]
        return Pool(epoch, index, start, int(self._kept[chunks].sum()), tuple(chunks.tolist()))

    def _plan(self, epoch: int) -> _Plan:
        if epoch not in self._plans:
            order = _permutation(len(self._kept), self._seed, _CHUNKS, epoch)
            ends = np.cumsum(self._kept[order])
            # A chunk belongs to the pool in which its last kept row falls; empty pools vanish.
            home = np.maximum(ends - 1, 0) * self._pools // self.rows_per_epoch
            edges = [0, *(np.flatnonzero(np.diff(home)) + 1).tolist(), len(order)]
            starts = [0, *(int(ends[edge - 1]) for edge in edges[1:-1])]
            self._plans = {e: p for e, p in self._plans.items() if abs(e - epoch) == 1}
            self._plans[epoch] = _Plan(order, edges, starts)
        return self._plans[epoch]


def _permutation(n: int, seed: int, *purpose: int) -> NDArray[np.int64]:
    """A permutation of range(n) that is a pure function of (n, seed, purpose)."""
    words = np.random.Philox(np.random.SeedSequence(seed, spawn_key=purpose)).random_raw(n)
    order: NDArray[np.int64] = np.argsort(words, kind="stable")
    return order
