"""One reader, many trainers: every row of the stream is fetched once, whoever needs it, and
centred and scaled once for all who see it alike.

Trainers of one batch size get the same tensor; those of another cut theirs from the rows that are
here. The one that is furthest behind always goes next (`grid`), so few rows are here at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from sae_cli.stages.grid_order import Span
from sae_cli.store.acts.shuffle import ShuffledReader


class Feed:
    """Rows of a stream, held from the first that is still needed to the last that was asked for."""

    def __init__(self, data: ShuffledReader) -> None:
        self._data = data
        self._blocks: list[tuple[int, Tensor]] = []
        self._scaled: dict[tuple[int, int, bool, Hashable], Tensor] = {}
        self.waited = 0.0
        """Seconds that were spent waiting for rows."""

    def batch(self, span: Span) -> Tensor:
        """The rows of a span, float32 [n, d] on the device. Don't write to them: others read them.

        Spans begin where the rows that are here begin, or later. Raises StoreError, naming the
        chunk, when one can't be read.
        """
        began = time.perf_counter()
        self._fetch(span.low, span.high)
        parts = [
            block[max(0, span.low - start) : span.high - start]
            for start, block in self._blocks
            if start < span.high and start + len(block) > span.low
        ]
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        if span.index is not None:
            rows = rows[span.index.to(rows.device)]
        self.waited += time.perf_counter() - began
        return rows

    def shard_of(self, row: int) -> int:
        """The shard of the array that holds its row of this number."""
        return self._data.shard_of(row)

    def again(self, span: Span) -> Tensor:
        """The rows of a span that may be gone from here: read once more if they are."""
        if not self._blocks or span.low < self._blocks[0][0]:
            rows = self._data.batch(span.low, span.high - span.low)
            return rows if span.index is None else rows[span.index.to(rows.device)]
        return self.batch(span)

    def scaled(self, span: Span, how: Hashable, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        """`prepare` of the rows of a span: done once for all who ask with an equal `how`."""
        key = (span.low, span.high, span.reserves, how)
        if key not in self._scaled:
            self._scaled[key] = prepare(self.batch(span))
        return self._scaled[key]

    def forget(self, low: int) -> None:
        """No row before `low` is needed any more."""
        self._blocks = [(s, block) for s, block in self._blocks if s + len(block) > low]
        self._scaled = {key: z for key, z in self._scaled.items() if key[0] >= low}

    def _fetch(self, low: int, high: int) -> None:
        """Have the rows from `low` to `high` here."""
        if self._blocks and low > self._end:
            self._blocks = []  # what lies between was trained on by nobody who is left
        first = self._end if self._blocks else low
        assert not self._blocks or low >= self._blocks[0][0]
        if high > first:
            self._blocks.append((first, self._data.batch(first, high - first)))

    @property
    def _end(self) -> int:
        start, block = self._blocks[-1]
        return start + len(block)
