"""The order in which training reads kept rows: shuffled, endless, and computable at any position.

Neighbouring rows come from one document, so order matters; single random rows from disk are slow.
So each epoch permutes the chunks, cuts them into pools of about `pool_tokens` kept rows, and
permutes the rows within each pool. Both permutations hang on (seed, epoch, pool) alone: a
restarted run at position p reads what the first would have read, without replaying the past.

Permutations sort raw 64-bit words of Philox, a counter-based generator whose stream numpy
guarantees across versions (its `permutation` it does not).
"""

from __future__ import annotations

from bisect import bisect_right
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.activations import ActivationReader

_CHUNKS, _ROWS = 0, 1


@dataclass(frozen=True)
class _Plan:
    """One epoch: pool p holds chunks order[edges[p]:edges[p+1]], stream rows from starts[p]."""

    order: NDArray[np.int64]
    edges: list[int]
    starts: list[int]


class ShuffledReader:
    """The endless stream of a finished array's kept rows. Every epoch visits each exactly once.

    Holds one pool in memory in the stored dtype (two with `prefetch`, which loads the next one in
    a thread). A context manager. Raises StoreError when the array is not finished.
    """

    def __init__(
        self,
        reader: ActivationReader,
        pool_tokens: int,
        seed: int,
        *,
        device: str | torch.device = "cpu",
        prefetch: bool = True,
    ) -> None:
        assert pool_tokens > 0 and seed >= 0
        if not reader.complete:
            raise StoreError(
                f"the array holds {reader.n_rows} of {reader.planned_rows} rows: "
                "the order of training can't be known before it is finished"
            )
        self._reader, self._seed = reader, seed
        self._device = torch.device(device)
        keep = reader.keep()
        bounds = range(0, reader.n_rows, reader.chunk_rows)
        self._keep = [keep[start : start + reader.chunk_rows] for start in bounds]
        self._kept = np.array([int(chunk.sum()) for chunk in self._keep], dtype=np.int64)
        self.rows_per_epoch: int = int(self._kept.sum())
        """Kept rows: after this many the stream starts its next epoch."""
        if self.rows_per_epoch == 0:
            raise StoreError("the array's mask drops every row: there is nothing to train on")
        self._n_pools = max(1, round(self.rows_per_epoch / pool_tokens))
        self._plans: dict[int, _Plan] = {}
        # A pool outgrows an even share by less than a chunk. Memory is reused from pool to pool.
        most = -(-self.rows_per_epoch // self._n_pools) + reader.chunk_rows
        buffers = 2 if prefetch else 1
        self._buffers = [torch.empty(most, reader.d, dtype=reader.dtype) for _ in range(buffers)]
        self._turn = 0
        self._here: tuple[tuple[int, int], Tensor] | None = None
        self._next: tuple[tuple[int, int], Future[Tensor]] | None = None
        self._thread = ThreadPoolExecutor(1, "saectl-pool") if prefetch else None

    def batch(self, position: int, n: int) -> Tensor:
        """Rows `position` to `position + n` of the stream: float32 [n, d] on the device.

        Crosses pools and epochs where they lie. Raises StoreError when the disk lets us down.
        """
        assert position >= 0 and n > 0
        out = torch.empty(n, self._reader.d, dtype=torch.float32, device=self._device)
        filled = 0
        while filled < n:
            epoch, offset = divmod(position + filled, self.rows_per_epoch)
            plan = self._plan(epoch)
            pool = bisect_right(plan.starts, offset) - 1
            rows = self._pool(epoch, pool)
            low = offset - plan.starts[pool]
            part = rows[low : low + n - filled].to(self._device)
            out[filled : filled + len(part)] = part
            filled += len(part)
        return out

    def close(self) -> None:
        """End the prefetching thread and drop the pools."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._here = self._next = None
        self._buffers = []

    def __enter__(self) -> ShuffledReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _plan(self, epoch: int) -> _Plan:
        if epoch not in self._plans:
            order = _permutation(len(self._kept), self._seed, _CHUNKS, epoch)
            ends = np.cumsum(self._kept[order])
            # A chunk belongs to the pool in which its last kept row falls; empty pools vanish.
            home = np.maximum(ends - 1, 0) * self._n_pools // self.rows_per_epoch
            edges = [0, *(np.flatnonzero(np.diff(home)) + 1).tolist(), len(order)]
            starts = [0, *(int(ends[edge - 1]) for edge in edges[1:-1])]
            self._plans = {e: p for e, p in self._plans.items() if abs(e - epoch) == 1}
            self._plans[epoch] = _Plan(order, edges, starts)
        return self._plans[epoch]

    def _pool(self, epoch: int, pool: int) -> Tensor:
        """Rows of a pool in stream order, [rows, d] in the stored dtype; starts on the next one.

        Valid until another pool is asked for.
        """
        wanted = (epoch, pool)
        if self._here is not None and self._here[0] == wanted:
            return self._here[1]
        self._turn = (self._turn + 1) % len(self._buffers)  # where the next pool is, or goes
        waiting, self._next, self._here = self._next, None, None
        rows = waiting[1].result() if waiting is not None else None
        if rows is None or waiting is None or waiting[0] != wanted:
            rows = self._load(self._buffers[self._turn], self._plan(epoch), epoch, pool)
        self._here = (wanted, rows)
        if self._thread is not None:
            last = pool + 1 == len(self._plan(epoch).starts)
            ahead = (epoch + 1, 0) if last else (epoch, pool + 1)
            free, plan = self._buffers[1 - self._turn], self._plan(ahead[0])
            self._next = (ahead, self._thread.submit(self._load, free, plan, *ahead))
        return rows

    def _load(self, buffer: Tensor, plan: _Plan, epoch: int, pool: int) -> Tensor:
        """Fill `buffer` with a pool; returns the part that was filled. Runs in either thread."""
        chunks = plan.order[plan.edges[pool] : plan.edges[pool + 1]].tolist()
        rows = buffer[: int(self._kept[chunks].sum())]
        slots = _permutation(len(rows), self._seed, _ROWS, epoch, pool)
        into = rows.view(torch.int16).numpy()  # numpy moves whole rows several times faster
        done = 0
        for k in chunks:
            acts = self._reader.chunk(k).view(torch.int16).numpy()
            count = int(self._kept[k])
            if count < len(acts):
                acts = acts[np.flatnonzero(self._keep[k])]
            into[slots[done : done + count]] = acts
            done += count
        return rows


def _permutation(n: int, seed: int, *purpose: int) -> NDArray[np.int64]:
    """A permutation of range(n) that is a pure function of (n, seed, purpose)."""
    words = np.random.Philox(np.random.SeedSequence(seed, spawn_key=purpose)).random_raw(n)
    order: NDArray[np.int64] = np.argsort(words, kind="stable")
    return order
