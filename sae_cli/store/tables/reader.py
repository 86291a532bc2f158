"""Reading what `writer` wrote: memory-mapped or by ranged requests, by the commits alone.

Works while writers go on (it sees the shards committed when it was opened) and needs no zarr
library. Bytes are trusted when read; `damages` is the one that hashes them all again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from sae_cli.errors import StoreError
from sae_cli.store.tables.chunks import METADATA, Array, Column, Table, column_of
from sae_cli.store.tables.commits import Entry
from sae_cli.store.tables.files import Files

_PIECE = 2**24


@dataclass(frozen=True)
class Damage:
    """A shard of one array that is not what its writer committed."""

    table: str
    column: str
    shard: int
    first: int
    last: int
    """The rows it holds."""
    file: str
    what: str

    def __str__(self) -> str:
        return (
            f"array {self.table}.zarr/{self.column}, shard {self.shard} "
            f"(rows {self.first} to {self.last}): {self.file} {self.what}"
        )


class TableReader:
    """The committed shards of one table. `columns` names its arrays, or the group does.

    `entries` are the stage's commits. Raises StoreError when there is no such table, or its
    arrays and commits contradict each other.
    """

    def __init__(
        self, files: Files, entries: Iterable[Entry], name: str, columns: tuple[str, ...]
    ) -> None:
        self.files = files
        self.table = _declared(files, name, columns)
        self.commits = {entry["k"]: entry for entry in entries if entry["table"] == name}
        for s, entry in self.commits.items():
            fits = 0 <= s < self.table.n_shards and entry["rows"] == self.table.rows_in(s)
            if not fits:
                raise StoreError(
                    f"{files.where()}: the commit of shard {s} of {name} does not fit an array of "
                    f"{self.table.rows} rows"
                )
        self._columns = {column.name: column for column in self.table.columns}

    @property
    def n_rows(self) -> int:
        """Committed rows."""
        return sum(self.table.rows_in(s) for s in self.commits)

    @property
    def complete(self) -> bool:
        """Whether every planned row is committed."""
        return len(self.commits) == self.table.n_shards

    def column(self, name: str) -> Column:
        """The column's declaration."""
        return self._columns[name]

    def chunk(self, name: str, k: int) -> Array:
        """Rows of chunk `k`, [rows, *row_shape]: a private map of the file, without a copy.

        Of a column with one row per shard, row `k`. Writing to it changes memory only. Raises
        StoreError when the chunk is not committed or its file is missing or of the wrong size.
        """
        column, table = self._columns[name], self.table
        s = k if column.per_shard else k // table.chunks_per_shard
        if s not in self.commits:
            raise StoreError(
                f"{self._where(column)}: {'row' if column.per_shard else 'chunk'} {k} is not "
                f"committed ({len(self.commits)} of {table.n_shards} shards are)"
            )
        place = table.place(column, k)
        try:
            raw = self.files.map(place.file, place.offset, place.size)
        except StoreError as error:
            what = "is missing or cut short"
            raise StoreError(f"{self._damage(column, s, what)} ({error.what})") from error
        rows = 1 if column.per_shard else table.rows_in_chunk(k)
        found: Array = raw.view(column.dtype).reshape(-1, *column.row_shape)[:rows]
        return found

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of a column, copied. Raises StoreError for rows not committed."""
        column, size = self._columns[name], self.table.chunk_rows
        if not 0 <= start <= stop <= self.table.rows:
            raise StoreError(
                f"{self._where(column)}: rows {start} to {stop} were asked for, it has "
                f"{self.table.rows}"
            )
        out = np.empty((stop - start, *column.row_shape), np.dtype(column.dtype))
        for k in range(start // size, -(-stop // size)):
            low, high = max(start, k * size), min(stop, (k + 1) * size)
            out[low - start : high - start] = self.chunk(name, k)[low - k * size : high - k * size]
        return out

    def damages(self, s: int) -> Iterator[Damage]:
        """Hash shard `s` again; yields what differs from its commit."""
        for column in self.table.columns:
            name = self.table.file(column, s)
            size, due = self.files.size(name), self.table.file_size(column, s)
            if size is None:
                yield self._damage(column, s, "is missing")
            elif size != due:
                yield self._damage(column, s, f"holds {size:,} bytes, not {due:,}")
            else:
                digest = blake3()
                for at in range(0, size, _PIECE):
                    digest.update(self.files.map(name, at, min(_PIECE, size - at)).data)
                if digest.hexdigest() != self.commits[s]["files"].get(name):
                    yield self._damage(column, s, "does not match its checksum")

    def bytes_of(self, s: int) -> int:
        """Bytes of shard `s` over all columns."""
        return sum(self.table.file_size(column, s) for column in self.table.columns)

    def _where(self, column: Column) -> str:
        return self.files.where(self.table.array(column))

    def _damage(self, column: Column, s: int, what: str) -> Damage:
        first = s * self.table.shard_rows
        last = first + self.table.rows_in(s) - 1
        file = self.files.where(self.table.file(column, s))
        return Damage(self.table.name, column.name, s, first, last, file, what)


def _declared(files: Files, name: str, columns: tuple[str, ...]) -> Table:
    """The table as its arrays' zarr.json declare it."""
    found: list[Column] = []
    bounds: set[tuple[int, int, int]] = set()
    for column in columns:
        at = f"{name}.zarr/{column}"
        data = files.get(f"{at}/{METADATA}")
        if data is None:
            raise StoreError(f"there is no array at {files.where(at)}")
        try:
            there: dict[str, Any] = json.loads(data)
            declared, *sizes = column_of(column, there)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise StoreError(
                f"{files.where(at)}/{METADATA} does not declare an array as saectl writes them: "
                f"{error}"
            ) from error
        found.append(declared)
        if not declared.per_shard:
            bounds.add((sizes[0], sizes[1], sizes[2]))
    if len(bounds) != 1:
        raise StoreError(
            f"{files.where(name)}: its arrays differ in rows, chunks or shards: {sorted(bounds)}"
        )
    rows, chunk, shard = bounds.pop()
    return Table(name, rows, chunk, shard, tuple(found))
