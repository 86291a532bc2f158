"""Rows on their way into an array: gathered into chunks, then hashed, measured and written beside
the forward that makes the next ones.

A recorder owns a range of shards. It may be handed rows that are committed already, or another's:
they are passed over, so a caller need only say where its rows belong. Statistics cover the rows
that count, and refuse NaN and Inf: training must not be the first to notice.

What is stored is a function of the rows alone. How they arrive (in how many pieces, on which
device, through how many threads) has no say in a single bit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.acts import encodings
from sae_cli.store.acts.array import NAME, ArrayPlan, declare
from sae_cli.store.acts.moments import Tally
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.acts.pieces import Filling, Rows, joined, on_host
from sae_cli.store.acts.strands import Lanes, Strand
from sae_cli.store.buckets.locate import data_files
from sae_cli.store.tables.journal import open_part, read_entries
from sae_cli.store.tables.writer import OnPoint, TableWriter

AT_ONCE = max(2, min(4, (os.cpu_count() or 1) // 2))
"""Shards that are written, hashed and measured beside each other, each from first row to last."""


class Recorder:
    """Writes shards `part` (all by default) of an array, those that are not committed yet.

    A context manager; holds the part's lock until closed. `attrs` (plain JSON) goes into the
    group's attributes. `lanes` are the threads that do the work, shared with other recorders;
    without them it brings its own. Raises StoreError when another process writes here, or when
    the folder holds another plan's data.
    """

    def __init__(
        self,
        dir: Path,
        plan: ArrayPlan,
        attrs: Mapping[str, Any] | None = None,
        *,
        part: range | None = None,
        lanes: Lanes | None = None,
        on_point: OnPoint | None = None,
    ) -> None:
        self.plan = plan
        self._table = plan.table()
        files = data_files(dir)
        self.part = range(self._table.n_shards) if part is None else part
        declare(files, self._table, plan.attrs(attrs or {}))
        log = open_part(files, self.part)
        try:
            entries = read_entries(files)
            self._writer = TableWriter(files, [self._table], log, entries, on_point)
            self._writer.tidy(NAME, self.part)
        except BaseException:
            log.close()
            raise
        self._own = lanes is None
        self._lanes = lanes or Lanes()
        self._strands = [Strand() for _ in range(AT_ONCE)]
        self._seals: list[Strand] = []
        self._open: dict[int, Filling] = {}
        self._under_way: dict[int, int] = {}

    @property
    def missing(self) -> list[int]:
        """Shards of the part that are not committed, in order."""
        return [s for s in self.part if s not in self._writer.committed[NAME]]

    @property
    def committed_rows(self) -> int:
        """Committed rows of the part."""
        rows = self._table.rows_in
        return sum(rows(s) for s in self.part if s in self._writer.committed[NAME])

    def rows_of(self, s: int) -> range:
        """The rows of shard `s`."""
        first = s * self._table.shard_rows
        return range(first, first + self._table.rows_in(s))

    def put(
        self, first: int, acts: Tensor, reasons: NDArray[np.uint8], norms: Tensor | None = None
    ) -> None:
        """Take rows `first` to `first + n`: `acts` [n, d] of any float dtype, on any device (not to
        be changed afterwards), and `reasons` [n], why each does not count. `norms` [n],
        where they are known, spare computing them (`norms.norms_of(acts)`).

        Rows that are committed, or outside the part, are passed over; a shard must be begun at its
        first row. Returns before the rows are on disk: see `drain`. Raises StoreError for wrong
        shapes, rows out of order, NaN or Inf in a row that counts, and what a disk may say, of
        these or earlier rows.
        """
        if acts.shape != (len(reasons), self.plan.d) or reasons.shape != acts.shape[:1]:
            raise StoreError(
                f"{self._where()}: rows of shape {tuple(acts.shape)} with reasons of shape "
                f"{reasons.shape}, they have {self.plan.d} dimensions"
            )
        if not acts.is_floating_point() or reasons.dtype != np.uint8:
            raise StoreError(
                f"{self._where()}: rows are floats and reasons are uint8, got {acts.dtype} "
                f"and {reasons.dtype}"
            )
        if self.plan.encoding != "int8":
            stored = acts.to(getattr(torch, self.plan.encoding))
            if norms is None and stored is not acts:
                norms = norms_of(acts)  # of the rows as they came
            acts = stored
        rows = on_host(Rows(acts, reasons, norms))
        at, end = first, first + len(acts)
        while at < end:
            s = at // self._table.shard_rows
            its = self.rows_of(s)
            stop = min(end, its.stop)
            if s in self.part and s not in self._writer.committed[NAME]:
                self._fill(s, at - its.start, rows[at - first : stop - first])
            at = stop

    def drain(self) -> None:
        """Wait until all that was put is committed, but for shards that are not full."""
        self._lanes.drain()

    def close(self) -> None:
        """Let another writer in; a shard that is not full is forgotten. Twice is harmless."""
        for strand in self._strands:
            self._lanes.forget(strand)
        for strand in self._seals:  # complete now: only those begin one
            self._lanes.forget(strand)
        for size in self._under_way.values():
            self._lanes.release(size)
        self._under_way = {}
        if self._own:
            self._lanes.close()
        for shard in self._open.values():
            shard.file.abort()
        self._open = {}
        self._writer.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill(self, s: int, at: int, given: Rows) -> None:
        """Add rows to shard `s` from its row `at` on, chunk by chunk."""
        if at == 0 and s not in self._open:
            self._open[s] = Filling(self._writer.shard(NAME, s), Tally(self.plan.d))
        shard = self._open.get(s)
        if shard is None or shard.taken != at:
            raise StoreError(
                f"{self._where()}: row {at} of shard {s} was offered, but row "
                f"{0 if shard is None else shard.taken} is next"
            )
        rows, size = self._table.rows_in(s), self._table.chunk_rows
        while len(given):
            room = min(size, rows - shard.taken // size * size) - shard.taken % size
            shard.pieces.append(given[:room])
            shard.taken += len(shard.pieces[-1])
            given = given[room:]
            if shard.taken % size == 0 or shard.taken == rows:
                self._send(shard, shard.taken == rows)

    def _send(self, shard: Filling, last: bool) -> None:
        """Hand a full chunk to the lanes."""
        pieces, shard.pieces = shard.pieces, []
        reasons = np.concatenate([piece.reasons for piece in pieces])
        size = sum(piece.acts.nbytes for piece in pieces)
        first = shard.file.index * self._table.shard_rows + shard.rows
        shard.rows += len(reasons)
        shard.reasons.append(reasons)

        def take() -> None:
            acts, norms = joined(pieces)
            columns = encodings.encode(acts, self.plan.encoding)
            for name, column in columns.items():
                shard.file.put(name, encodings.to_disk(column))
            shard.error += encodings.squared_error(acts, columns, self.plan.encoding, reasons == 0)
            if not shard.tally.add(acts, reasons == 0, norms):
                raise StoreError(
                    f"{self._where()}: rows {first} to {first + len(reasons) - 1} hold NaN or Inf "
                    "in rows that count",
                    hint="store a wider type (cache.dtype: bfloat16 or float32), or look at the "
                    "model",
                )
            del self._under_way[id(pieces)]
            self._lanes.release(size)
            if last:
                self._seals.append(Strand())  # of its own: the next shard need not wait
                self._lanes.then(self._seals[-1], lambda: self._seal(shard))

        self._lanes.reserve(size)
        self._under_way[id(pieces)] = size
        self._lanes.submit(self._strands[shard.file.index % len(self._strands)], take)

    def _seal(self, shard: Filling) -> None:
        moments = shard.tally.moments(shard.error)
        shard.file.put("mask", np.concatenate(shard.reasons))
        shard.file.put("statistics", moments.to_row()[None])
        kept = [int(np.count_nonzero(reasons == 0)) for reasons in shard.reasons]
        shard.file.seal({"kept": kept})
        del self._open[shard.file.index]

    def _where(self) -> str:
        return self._writer.files.where(self._table.folder)
