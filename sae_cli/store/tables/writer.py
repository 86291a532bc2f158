"""Writing tables shard by shard, so that a kill, a power cut or a full disk loses no shard.

The final shape is fixed by the plan before the first shard. To commit shard s: every column's
bytes into files that nobody sees yet, checksums rolled along; make them durable and give them
their names; then one line in the log. Only then does the shard exist. Killed anywhere, the next
writer begins again with the first shard that has no line. Rows are a pure function of the plan,
so it writes the same bytes.

Shards may be committed in any order; one writer owns a range of them (the log's lock says so).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from blake3 import blake3

from sae_cli.errors import StoreError
from sae_cli.store.tables.chunks import METADATA, Array, Column, Table, as_bytes, encoded
from sae_cli.store.tables.commits import Entry, Log
from sae_cli.store.tables.files import Files, Upload

OnPoint = Callable[[str], None]
_ANEW = "this folder's data must go before the stage can run anew"


class TableWriter:
    """Writes shards of some tables under one log. A context manager; closing lets another in.

    `entries` are the commits of other logs that count too. `on_point(name)` is called at the
    points between which a crash makes a difference. Raises StoreError when what is here was made
    by another plan, or a committed shard's file is missing.
    """

    def __init__(
        self,
        files: Files,
        tables: Iterable[Table],
        log: Log,
        entries: Iterable[Entry] = (),
        on_point: OnPoint | None = None,
    ) -> None:
        self.files = files
        self.tables = {table.name: table for table in tables}
        self._on_point = on_point
        self._log = log
        self._turn = threading.Lock()
        try:
            self.committed = sort_out([*entries, *log.entries], self.tables, files)
            for table in self.tables.values():
                declare_columns(files, table)
        except BaseException:
            log.close()
            raise

    @property
    def last_entry(self) -> Entry | None:
        """The latest line of this writer's log, or None before the first."""
        return self._log.entries[-1] if self._log.entries else None

    def tidy(self, name: str, shards: range) -> None:
        """Delete what killed writers of `shards` left; make sure that committed files are there."""
        table = self.tables[name]
        for column in table.columns:
            folder = table.array(column)
            names = {s: table.file(column, s).rpartition("/")[2] for s in shards}
            self.files.tidy(folder, names.values())
            there = set(self.files.names(folder))
            gone = [s for s in shards if s in self.committed[name] and names[s] not in there]
            if gone:
                raise StoreError(
                    f"{self.files.where(folder)}: {len(gone)} committed shards are gone, the "
                    f"first is {names[gone[0]]}",
                    hint="saectl verify --repair makes them anew",
                )

    def shard(self, name: str, s: int) -> Shard:
        """Begin shard `s` of a table. Raises StoreError when it is committed or does not exist."""
        table = self.tables[name]
        if s in self.committed[name] or not 0 <= s < table.n_shards:
            raise StoreError(
                f"{self.files.where(table.folder)}: shard {s} was offered, but of "
                f"{table.n_shards} shards {len(self.committed[name])} are committed, it among them"
                if s in self.committed[name]
                else f"{self.files.where(table.folder)} has no shard {s} (it has {table.n_shards})"
            )
        return Shard(self, table, s)

    def write(
        self, name: str, s: int, values: Mapping[str, Array], about: Mapping[str, Any]
    ) -> None:
        """Commit shard `s` at once; `values[column]` is [rows, *row_shape].

        Raises StoreError for a wrong shape or dtype, or when the disk refuses; nothing is
        committed then.
        """
        shard = self.shard(name, s)
        try:
            for column in self.tables[name].columns:
                shard.put(column.name, values[column.name])
            shard.seal(about)
        except BaseException:
            shard.abort()
            raise

    def commit(self, entry: Entry) -> None:
        """Put a sealed shard's line into the log."""
        self.point("before the log")
        with self._turn:
            self._log.append(entry)
            self.committed[entry["table"]][entry["k"]] = self._log.entries[-1]
        self.point("committed")

    def point(self, name: str) -> None:
        """Tell a test where we are."""
        if self._on_point is not None:
            self._on_point(name)

    def close(self) -> None:
        """Let another writer in. Closing twice is harmless."""
        self._log.close()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Shard:
    """One shard on its way: rows are added per column, in order, then it is sealed.

    Different columns may be filled from different threads.
    """

    def __init__(self, writer: TableWriter, table: Table, s: int) -> None:
        self._writer, self._table, self.index = writer, table, s
        self._columns = {column.name: column for column in table.columns}
        self._uploads: dict[str, Upload] = {}
        self._digests = {column.name: blake3() for column in table.columns}
        self._rows = dict.fromkeys(self._columns, 0)
        self._hashed = dict.fromkeys(self._columns, 0)

    def put(self, column: str, rows: Array) -> None:
        """Add `rows` [n, *row_shape] behind those that are there."""
        self.write(column, rows)
        self.hash(column, rows)

    def write(self, column: str, rows: Array) -> None:
        """The half of `put` that waits for the disk; the same rows must also go to `hash`."""
        declared = self._columns[column]
        self._check(declared, rows)
        if column not in self._uploads:
            self._uploads[column] = self._writer.files.create(
                self._table.file(declared, self.index)
            )
        self._uploads[column].write(as_bytes(rows))
        self._rows[column] += len(rows)
        self._writer.point(f"writing {column}")

    def hash(self, column: str, rows: Array) -> None:
        """The half of `put` that computes: rolls the checksum on, in the order of `write`."""
        self._digests[column].update(as_bytes(rows))
        self._hashed[column] += len(rows)

    def seal(self, about: Mapping[str, Any]) -> None:
        """Commit the shard: when this returns it survives a power cut.

        `about` is plain JSON for its line in the log. Raises StoreError when rows are missing or
        the disk refuses; nothing is committed then.
        """
        rows = self._table.rows_in(self.index)
        for column in self._table.columns:
            due = 1 if column.per_shard else rows
            if self._rows[column.name] != due:
                raise StoreError(
                    f"{self._where(column)}: shard {self.index} has {due} rows, "
                    f"got {self._rows[column.name]}"
                )
            assert self._hashed[column.name] == due
            tail = self._table.tail(column, self.index)
            self._uploads[column.name].write(tail)
            self._digests[column.name].update(tail)
            self._writer.point(f"written {column.name}")
        files = {}
        for column in self._table.columns:
            self._uploads[column.name].finish()
            digest = self._digests[column.name].hexdigest()
            files[self._table.file(column, self.index)] = digest
            self._writer.point(f"renamed {column.name}")
        name = self._table.name
        self._writer.commit({"table": name, "k": self.index, "rows": rows, "files": files, **about})

    def abort(self) -> None:
        """Forget it. After `seal`, or twice, it does nothing."""
        for upload in self._uploads.values():
            upload.abort()

    def _check(self, column: Column, rows: Array) -> None:
        due = 1 if column.per_shard else self._table.rows_in(self.index)
        fits = (
            rows.dtype == np.dtype(column.dtype)
            and rows.shape[1:] == column.row_shape
            and self._rows[column.name] + len(rows) <= due
        )
        if not fits:
            raise StoreError(
                f"{self._where(column)}: shard {self.index} holds {due} rows of "
                f"{column.row_shape} {column.dtype}, got {rows.shape} {rows.dtype.str} "
                f"behind {self._rows[column.name]}"
            )

    def _where(self, column: Column) -> str:
        return self._writer.files.where(self._table.array(column))


def sort_out(
    entries: Iterable[Entry], tables: Mapping[str, Table], files: Files
) -> dict[str, dict[int, Entry]]:
    """Entries by table and shard. Raises StoreError when they tell of another plan."""
    found: dict[str, dict[int, Entry]] = {name: {} for name in tables}
    for entry in entries:
        table = tables.get(entry["table"])
        if (
            table is None
            or not 0 <= entry["k"] < table.n_shards
            or entry["rows"] != table.rows_in(entry["k"])
        ):
            raise StoreError(
                f"the commit log of {files.where()} was written by another plan: shard "
                f"{entry['k']} of table {entry['table']!r} with {entry['rows']} rows does not "
                "belong here",
                hint=_ANEW,
            )
        found[table.name][entry["k"]] = entry
    return found


def declare_columns(files: Files, table: Table) -> None:
    """Write each array's zarr.json, or make sure that the one there says the same.

    Raises StoreError naming the first thing in which it differs.
    """
    for column in table.columns:
        _declare(files, table, column)


def tidy_metadata(files: Files, table: Table) -> None:
    """Delete what was left of a zarr.json half written. Only where nobody else is writing."""
    for folder in (table.folder, *map(table.array, table.columns)):
        files.tidy(folder, [METADATA])


def _declare(files: Files, table: Table, column: Column) -> None:
    wanted, name = table.metadata(column), f"{table.array(column)}/{METADATA}"
    data = files.get(name)
    if data is None:
        files.put(name, encoded(wanted))
        return
    try:
        there = dict(json.loads(data))
    except (ValueError, TypeError) as error:
        raise StoreError(f"{files.where(name)} is damaged: {error}") from error
    for part, plan in json.loads(encoded(wanted)).items():
        if there.get(part) != plan:
            raise StoreError(
                f"{files.where(name)} was written by another plan: {part} is {there.get(part)}, "
                f"this stage needs {plan}",
                hint=_ANEW,
            )
