"""Reading what `chunks.TableWriter` wrote: memory-mapped, by the commit log alone.

Works while a writer goes on (it sees the chunks committed when it was opened) and needs no zarr
library. Bytes are trusted when read; `verify` is the one that hashes them all again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained, read_json, sha256_of
from sae_cli.store.chunks import METADATA, Array, Column, Table
from sae_cli.store.commits import read_commits


class TableReader:
    """The committed chunks of one table. `columns` names its arrays.

    Raises StoreError when there is no such table, or its arrays and log contradict each other.
    """

    def __init__(self, root: Path, log: Path, columns: tuple[str, ...], name: str = "") -> None:
        self.root = root
        self.table = Table(name, *_shape(root, name, columns))
        self.commits = [entry for entry in read_commits(log) if entry["table"] == name]
        for k, entry in enumerate(self.commits):
            expected = (k, self.table.rows_in(k)) if k < self.table.n_chunks else None
            if (entry["k"], entry["rows"]) != expected:
                raise StoreError(
                    f"{log}: line for chunk {entry['k']} of {name or 'the array'} does not fit "
                    f"an array of {self.table.rows} rows"
                )

    @property
    def n_chunks(self) -> int:
        """Committed chunks."""
        return len(self.commits)

    @property
    def n_rows(self) -> int:
        """Committed rows."""
        return min(self.n_chunks * self.table.chunk_rows, self.table.rows)

    @property
    def complete(self) -> bool:
        """Whether every planned row is committed."""
        return self.n_chunks == self.table.n_chunks

    def column(self, name: str) -> Column:
        """The column's declaration."""
        return next(column for column in self.table.columns if column.name == name)

    def chunk(self, name: str, k: int) -> Array:
        """Rows of chunk `k`, [rows, *row_shape]: a private map of the file, without a copy.

        Writing to it changes memory only. Raises StoreError when the chunk is not committed or
        its file is missing or of the wrong size.
        """
        column, table = self.column(name), self.table
        if not 0 <= k < self.n_chunks:
            raise StoreError(
                f"{self.root / table.array(column)}: chunk {k} is not committed "
                f"({self.n_chunks} of {table.n_chunks} are)"
            )
        path = self.root / table.file(column, k)
        shape = (table.chunk_rows, *column.row_shape)
        dtype = np.dtype(column.dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        with explained(path, "map"):
            found = path.stat().st_size
            if found != size:
                raise StoreError(self._damage(column, k, f"holds {found} bytes, not {size}"))
            mapped = np.memmap(path, dtype=dtype, mode="c", shape=shape)
        return np.asarray(mapped)[: table.rows_in(k)]

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of a column, copied. Raises StoreError outside the committed rows."""
        if not 0 <= start <= stop <= self.n_rows:
            raise StoreError(
                f"{self.root / self.table.array(self.column(name))}: rows {start} to {stop} were "
                f"asked for, {self.n_rows} of {self.table.rows} are committed"
            )
        column, size = self.column(name), self.table.chunk_rows
        out = np.empty((stop - start, *column.row_shape), np.dtype(column.dtype))
        for k in range(start // size, -(-stop // size)):
            low, high = max(start, k * size), min(stop, (k + 1) * size)
            if low < high:
                out[low - start : high - start] = self.chunk(name, k)[
                    low - k * size : high - k * size
                ]
        return out

    def verify(self) -> int:
        """Hash every committed chunk again; returns the bytes read.

        Raises StoreError naming array, chunk, rows and file of the first that differs.
        """
        total = 0
        for k, entry in enumerate(self.commits):
            for column in self.table.columns:
                relative = self.table.file(column, k)
                path = self.root / relative
                if not path.is_file():
                    raise StoreError(self._damage(column, k, "is missing"))
                if sha256_of(path) != entry["files"].get(relative):
                    raise StoreError(self._damage(column, k, "does not match its sha256"))
                total += path.stat().st_size
        return total

    def _damage(self, column: Column, k: int, what: str) -> str:
        first = k * self.table.chunk_rows
        last = first + self.table.rows_in(k) - 1
        return (
            f"array {self.table.array(column)}, chunk {k} (rows {first} to {last}): "
            f"{self.root / self.table.file(column, k)} {what}"
        )


def _shape(root: Path, name: str, columns: tuple[str, ...]) -> tuple[int, int, tuple[Column, ...]]:
    """Rows, rows of a chunk, and columns, from each array's zarr.json."""
    found: list[Column] = []
    bounds: set[tuple[int, int]] = set()
    for column in columns:
        path = root / name / f"{column}.zarr" / METADATA
        there = read_json(path)
        if there is None:
            raise StoreError(f"there is no array at {path.parent}")
        shape: list[int] = there["shape"]
        chunk: list[int] = there["chunk_grid"]["configuration"]["chunk_shape"]
        raw = [codec["name"] for codec in there["codecs"]] == ["bytes"]
        if not raw or chunk[1:] != shape[1:]:
            raise StoreError(f"{path}: not an array of raw whole-row chunks as saectl writes them")
        attrs: dict[str, Any] = there.get("attributes", {})
        dtype = np.dtype(there["data_type"]).newbyteorder("<").str
        found.append(Column(column, dtype, tuple(shape[1:]), attrs))
        bounds.add((shape[0], chunk[0]))
    if len(bounds) != 1:
        raise StoreError(f"{root / name}: its arrays differ in rows or chunks: {sorted(bounds)}")
    rows, chunk_rows = bounds.pop()
    return rows, chunk_rows, tuple(found)
