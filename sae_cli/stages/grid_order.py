"""Which rows of an array a batch is made of, known from its position alone.

All SAEs of a grid draw from one stream (`store.order`), so that it is read once. A form that
calibrates must not train on the rows it calibrates with: for it the array's last kept rows are
reserved, and its batches are cut from the same stream without them. So a grid of both kinds still
reads once, and what a batch holds is a function of (seed, position), nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.errors import StoreError, TrainingError
from sae_cli.store.acts.array import ActivationReader
from sae_cli.store.acts.order import Order, Pool

RESERVED = 16_384
"""Kept rows that are reserved for calibration, the array's last; of a small array, one in 16."""


@dataclass(frozen=True)
class Span:
    """Rows of the stream: those at `low + index`, or all from `low` to `high` without an index."""

    low: int
    high: int
    index: Tensor | None = None
    """int64, ascending."""

    @property
    def reserves(self) -> bool:
        """Whether reserved rows are left out."""
        return self.index is not None


class Course:
    """The stream over a finished array's kept rows, with and without the reserved ones."""

    def __init__(self, reader: ActivationReader, pool_tokens: int, seed: int) -> None:
        self._reader = reader
        self._order = Order(reader.kept, pool_tokens, seed)
        total = self._order.rows_per_epoch
        self.reserved: int = max(1, min(RESERVED, total // 16))
        """Kept rows that forms that calibrate don't train on."""
        within = np.cumsum(reader.kept) - (total - self.reserved)
        self._aside: NDArray[np.int64] = np.clip(within, 0, reader.kept)
        self._rows_without = total - self.reserved
        self._epoch: tuple[int, list[Pool], NDArray[np.int64]] | None = None
        self._open: dict[Pool, NDArray[np.int64]] = {}

    def span(self, position: int, n: int, *, reserving: bool) -> Span:
        """Rows `position` to `position + n` of a trainer's stream.

        Raises StoreError when nothing is left to train on beside the reserved rows.
        """
        if not reserving:
            return Span(position, position + n)
        if not self._rows_without:
            raise StoreError(
                "the array keeps one row only: none is left to calibrate with",
                hint="raise data.tokens",
            )
        found, filled = [], 0
        while filled < n:
            part = self._part(position + filled)[: n - filled]
            found.append(part)
            filled += len(part)
        places = np.concatenate(found)
        low = int(places[0])
        return Span(low, int(places[-1]) + 1, torch.from_numpy(places - low))

    def calibration(self, rows: int) -> Iterator[Tensor]:
        """The reserved rows in the array's order, float32 [at most `rows`, d], on the CPU.

        Raises TrainingError when one of them is not finite: no gradient would tell.
        """
        for k in np.flatnonzero(self._aside).tolist():
            kept = np.flatnonzero(self._reader.reasons(k) == 0)[-int(self._aside[k]) :]
            found = self._reader.chunk(k)[torch.from_numpy(kept)].float()
            bad = (~torch.isfinite(found)).any(1).nonzero().flatten()
            if bad.numel():
                row = k * self._reader.chunk_rows + int(kept[int(bad[0])])
                raise TrainingError(
                    f"row {row} (shard {self._reader.shard_of(row)}) of the activations holds NaN "
                    "or Inf: met in calibration",
                    hint="capture refuses such rows, so the file has changed since: saectl verify "
                    "--repair",
                )
            yield from torch.split(found, rows)

    def row(self, position: int) -> int:
        """The number, among all rows of the array, of the one at a position of the whole stream."""
        pool = self._order.at(position)
        nth = int(np.flatnonzero(self._order.slots(pool) == position - pool.start)[0])
        for k in pool.chunks:
            count = int(self._reader.kept[k])
            if nth < count:
                break
            nth -= count
        return k * self._reader.chunk_rows + int(np.flatnonzero(self._reader.reasons(k) == 0)[nth])

    def _part(self, position: int) -> NDArray[np.int64]:
        """Positions in the whole stream of a reserving stream's rows, from `position` to the end
        of its pool."""
        epoch, offset = divmod(position, self._rows_without)
        pools, starts = self._pools(epoch)
        which = int(np.searchsorted(starts, offset, side="right")) - 1
        return self._places(pools[which])[offset - int(starts[which]) :]

    def _pools(self, epoch: int) -> tuple[list[Pool], NDArray[np.int64]]:
        """The pools of an epoch that hold rows beside reserved ones, and where each starts."""
        if self._epoch is None or self._epoch[0] != epoch:
            pools, counts = [], []
            pool = self._order.at(epoch * self._order.rows_per_epoch)
            while pool.epoch == epoch:
                left = pool.rows - int(self._aside[list(pool.chunks)].sum())
                if left:
                    pools.append(pool)
                    counts.append(left)
                pool = self._order.after(pool)
            self._epoch = epoch, pools, np.cumsum([0, *counts[:-1]])
        return self._epoch[1], self._epoch[2]

    def _places(self, pool: Pool) -> NDArray[np.int64]:
        """Positions in the whole stream of a pool's rows that are not reserved, ascending."""
        if pool not in self._open:
            slots, done = self._order.slots(pool), 0
            counts = np.ones(pool.rows, bool)
            for k in pool.chunks:
                done += int(self._reader.kept[k])
                counts[slots[done - int(self._aside[k]) : done]] = False
            while len(self._open) > 1:  # a batch lies in two pools at most, or in small ones
                del self._open[next(iter(self._open))]
            self._open[pool] = pool.start + np.flatnonzero(counts)
        return self._open[pool]
