"""Tables of raw zarr v3 arrays, written chunk by chunk under one commit log.

A table is a set of columns (arrays) that share their rows and their chunk bounds, say activations
and the mask beside them. Its final shape is fixed by the plan before the first chunk. Chunks are
neither compressed nor sharded, so a chunk's file holds nothing but the array's bytes: any zarr
reader sees an ordinary array, and ours maps the file into memory.

One writer at a time, whole chunks, in order. To commit chunk k: every column's bytes to temporary
files, sync, rename, sync the folders, then one line in the log. Killed anywhere, the next writer
goes on at the first chunk without a line. Rows are a pure function of the plan, so it writes the
same bytes. What the log does not name does not exist; what it names and is not there is damage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained, read_json, sweep, sync_folder, write_bytes, write_temp
from sae_cli.store.commits import CommitLog, Entry

Array = NDArray[Any]
OnPoint = Callable[[str], None]
METADATA = "zarr.json"


@dataclass(frozen=True)
class Column:
    """One array of a table: its name, numpy dtype (little-endian), shape of a row, attributes."""

    name: str
    dtype: str
    row_shape: tuple[int, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Columns of `rows` rows in chunks of `chunk_rows`. The name is a subfolder, '' for none."""

    name: str
    rows: int
    chunk_rows: int
    columns: tuple[Column, ...]

    @property
    def n_chunks(self) -> int:
        """Chunks in the finished table; the last may hold fewer rows."""
        return -(-self.rows // self.chunk_rows)

    def rows_in(self, k: int) -> int:
        """Rows of chunk `k` that are data; the rest of its file is zeros."""
        return min(self.chunk_rows, self.rows - k * self.chunk_rows)

    def file(self, column: Column, k: int) -> str:
        """Chunk `k`'s file, relative to the folder of the log."""
        name = ".".join(["c", str(k), *("0" for _ in column.row_shape)])
        return str(self.array(column) / name)

    def array(self, column: Column) -> Path:
        """The array's folder, relative to the folder of the log."""
        return Path(self.name) / f"{column.name}.zarr"


class TableWriter:
    """Writes tables under one log. A context manager; holds the log's lock until closed.

    `on_point(name)` is called at the points between which a crash makes a difference. Raises
    StoreError when another process is writing here, when what is here was made by another plan,
    or when committed chunks are missing.
    """

    def __init__(
        self, root: Path, tables: Iterable[Table], log: Path, on_point: OnPoint | None = None
    ) -> None:
        self.root = root
        self.tables = {table.name: table for table in tables}
        self._on_point = on_point
        with explained(root, "create"):
            root.mkdir(parents=True, exist_ok=True)
        self._log = CommitLog(log)
        try:
            self.committed = _count(self._log.entries, self.tables, log)
            for table in self.tables.values():
                for column in table.columns:
                    _declare(root, table, column)
                    _tidy(root, table, column, self.committed[table.name])
        except StoreError:
            self._log.close()
            raise

    @property
    def last_state(self) -> Any:
        """The `state` of the latest commit in any table, or None before the first."""
        return self._log.entries[-1]["state"] if self._log.entries else None

    def write(
        self, name: str, k: int, values: Mapping[str, Array], rows: int, state: Any = None
    ) -> None:
        """Commit chunk `k` of table `name`: `values[column]` is [rows, *row_shape].

        Raises StoreError for a chunk out of order or of a wrong shape or dtype, and when the disk
        refuses; nothing is committed then.
        """
        self.check(name, k, values, rows)
        table = self.tables[name]
        renames: list[tuple[Path, Path]] = []
        digests: dict[str, str] = {}
        with explained(self.root):
            for column in table.columns:
                data = _bytes(values[column.name], table.chunk_rows)
                relative = table.file(column, k)
                digests[relative] = hashlib.sha256(data).hexdigest()
                target = self.root / relative
                temp = write_temp(
                    target, data, on_piece=partial(self._point, f"writing {column.name}")
                )
                self._point(f"written {column.name}")
                renames.append((temp, target))
            for (temp, target), column in zip(renames, table.columns, strict=True):
                temp.replace(target)
                self._point(f"renamed {column.name}")
            for column in table.columns:
                sync_folder(self.root / table.array(column))
        self._point("before the log")
        self._log.append({"table": name, "k": k, "rows": rows, "files": digests, "state": state})
        self.committed[name] += 1
        self._point("committed")

    def check(self, name: str, k: int, values: Mapping[str, Array], rows: int) -> None:
        """Raises StoreError when `write` would refuse these values."""
        table = self.tables[name]
        where, due = self.root / name, self.committed[name]
        if k != due or k >= table.n_chunks:
            raise StoreError(
                f"{where}: chunk {k} was offered, but chunk {due} of {table.n_chunks} is next"
            )
        assert set(values) == {column.name for column in table.columns}
        if rows != table.rows_in(k):
            raise StoreError(f"{where}: chunk {k} has {table.rows_in(k)} rows, got {rows}")
        for column in table.columns:
            array, shape = values[column.name], (rows, *column.row_shape)
            if array.shape != shape or array.dtype != np.dtype(column.dtype):
                raise StoreError(
                    f"{where}: chunk {k} of {column.name} must be {shape} {column.dtype}, "
                    f"got {array.shape} {array.dtype.str}"
                )

    def require_complete(self) -> None:
        """Raises StoreError unless every chunk of every table is committed."""
        for table in self.tables.values():
            done = self.committed[table.name]
            if done < table.n_chunks:
                raise StoreError(
                    f"{self.root / table.name} holds {done} of {table.n_chunks} chunks: incomplete"
                )

    def close(self) -> None:
        """Let another writer in. Closing twice is harmless."""
        self._log.close()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _point(self, name: str) -> None:
        if self._on_point is not None:
            self._on_point(name)


def _bytes(array: Array, chunk_rows: int) -> memoryview:
    """The bytes of a chunk file: C order, padded with zeros to `chunk_rows` rows."""
    if len(array) < chunk_rows:
        padded = np.zeros((chunk_rows, *array.shape[1:]), array.dtype)
        padded[: len(array)] = array
        array = padded
    flat: Array = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.data


def _count(entries: list[Entry], tables: Mapping[str, Table], log: Path) -> dict[str, int]:
    """Committed chunks per table. Raises StoreError when the log tells of another plan."""
    counts = dict.fromkeys(tables, 0)
    for entry in entries:
        table = tables.get(entry["table"])
        if (
            table is None
            or entry["k"] != counts[table.name]
            or entry["k"] >= table.n_chunks
            or entry["rows"] != table.rows_in(entry["k"])
        ):
            raise StoreError(
                f"{log} was written by another plan: chunk {entry['k']} of table "
                f"{entry['table']!r} with {entry['rows']} rows does not belong here",
                hint="this folder's data must go before the stage can run anew",
            )
        counts[table.name] += 1
    return counts


def _declare(root: Path, table: Table, column: Column) -> None:
    """Write the array's zarr.json, or make sure that the one there says the same."""
    folder = root / table.array(column)
    with explained(folder, "create"):
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    wanted, path = _metadata(table, column), folder / METADATA
    there = read_json(path)
    if there is None:
        write_bytes(path, wanted)
        return
    plan = json.loads(wanted)
    for name in ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "attributes"):
        if there.get(name) != plan[name]:
            raise StoreError(
                f"{path} was written by another plan: {name} is {there.get(name)}, "
                f"this stage needs {plan[name]}",
                hint="this folder's data must go before the stage can run anew",
            )


def _metadata(table: Table, column: Column) -> bytes:
    """The zarr.json of a raw, uncompressed, little-endian array of the final shape."""
    import zarr
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(files),
        shape=(table.rows, *column.row_shape),
        chunks=(table.chunk_rows, *column.row_shape),
        dtype=np.dtype(column.dtype),
        compressors=None,
        filters=None,
        fill_value=0,
        attributes=dict(column.attrs),
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )
    metadata: bytes = files[METADATA].to_bytes()
    return metadata


def _tidy(root: Path, table: Table, column: Column, committed: int) -> None:
    """Delete what killed writers left; make sure that each committed chunk's file is there."""
    folder = root / table.array(column)
    with explained(folder, "tidy"):
        sweep(folder)
        chunks = {Path(table.file(column, k)).name for k in range(committed)}
        present = {path.name for path in folder.iterdir() if path.name.startswith("c.")}
        for stray in present - chunks:
            (folder / stray).unlink()
    missing = sorted(chunks - present)
    if missing:
        raise StoreError(
            f"{folder}: {len(missing)} committed chunks are gone, the first is {missing[0]}",
            hint="delete this folder's data and run the stage again",
        )
