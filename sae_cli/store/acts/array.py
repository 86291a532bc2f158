"""Activations of one (model, layer, site) on disk: rows, their mask, and their statistics.

`activations.zarr` holds `acts` [rows, d] (and `scales` where the encoding has them), `mask` uint8
[rows] (0 counts; any other value says why a row does not), and `statistics` [shards, L]: what
`moments` gathered of each shard while it was written, so that nothing is read twice.

Here are the plan of such an array, its reader, and its last step; `recorder` writes the rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.acts import encodings
from sae_cli.store.acts.encodings import Encoding
from sae_cli.store.acts.moments import Moments, row_length
from sae_cli.store.atomic import explained, write_bytes
from sae_cli.store.buckets.locate import data_files
from sae_cli.store.layout import StageDir
from sae_cli.store.tables.chunks import METADATA, Column, Table, encoded
from sae_cli.store.tables.files import Files, LocalFiles
from sae_cli.store.tables.journal import JOINED, join, read_entries
from sae_cli.store.tables.reader import TableReader
from sae_cli.store.tables.writer import declare_columns, tidy_metadata

FORMAT = 2
NAME = "activations"
GROUP = f"{NAME}.zarr/{METADATA}"
_ALWAYS = ("mask", "statistics")


@dataclass(frozen=True)
class ArrayPlan:
    """Everything about an array that is known before its first row."""

    rows: int
    d: int
    chunk_rows: int
    shard_rows: int
    encoding: Encoding

    def attrs(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """The group's attributes: `about` (plain JSON), and how to read the rows."""
        return {"format": FORMAT, "encoding": self.encoding, **about}

    def table(self) -> Table:
        """The table that holds it."""
        stored = [
            Column(name, dtype, shape, ("dim",) if name == "acts" else ("block",), codecs, kind)
            for name, dtype, shape, codecs, kind in encodings.columns(self.encoding, self.d)
        ]
        mask = Column("mask", "|u1")
        moments = Column("statistics", "<f8", (row_length(self.d),), ("value",), per_shard=True)
        return Table(NAME, self.rows, self.chunk_rows, self.shard_rows, (*stored, mask, moments))


class ActivationReader:
    """Reads one array, also while it is being written: only committed shards exist.

    Raises StoreError when there is no array, or its parts contradict each other.
    """

    def __init__(self, dir: Path) -> None:
        self._stage = StageDir(dir)
        done = self._done()  # before the commits are read: they may be whole a moment later
        self.files = data_files(dir)
        self.attrs: dict[str, Any] = declared(self.files) or {}
        """What the writer was given, `encoding`, and, once finished, what was found."""
        if not self.attrs:
            raise StoreError(f"there is no array at {self.files.where(f'{NAME}.zarr')}")
        found, format_ = str(self.attrs.get("encoding")), self.attrs.get("format")
        if found not in encodings.NAMES or format_ != FORMAT:
            raise StoreError(
                f"{self.files.where(GROUP)}: encoding {found!r} (format {format_}) is not one this "
                "version reads"
            )
        self.encoding: Encoding = encodings.named(found)
        names = tuple(name for name, *_ in encodings.columns(self.encoding, 1))
        self.table = TableReader(self.files, read_entries(self.files), NAME, (*names, *_ALWAYS))
        shape = self.table.table
        self.d: int = self.table.column("acts").row_shape[0]
        self.chunk_rows: int = shape.chunk_rows
        self.planned_rows: int = shape.rows
        self.n_chunks: int = shape.n_chunks
        """Chunks of the finished array."""
        self.columns: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            name: (np.dtype(self.table.column(name).dtype), self.table.column(name).row_shape)
            for name in names
        }
        """Name -> (dtype on disk, shape of a row) of what an encoded row is made of."""
        if done and not self.complete and self._done():  # not freed in the meantime
            raise StoreError(
                f"{self._stage} was finished, but only {len(self.table.commits)} of "
                f"{shape.n_shards} shards are committed: the commit log is damaged",
                hint="saectl verify --repair makes the rest anew",
            )

    def _done(self) -> bool:
        """Whether all is said to be there."""
        return self._stage.done.is_file() and not self._stage.evicted.is_file()

    @property
    def n_rows(self) -> int:
        """Committed rows, kept or not."""
        return self.table.n_rows

    @property
    def complete(self) -> bool:
        """Whether every planned row is committed."""
        return self.table.complete

    @cached_property
    def kept(self) -> NDArray[np.int64]:
        """Rows that count in each chunk, [n_chunks]; 0 where a chunk is not committed."""
        out = np.zeros(self.n_chunks, np.int64)
        for s, entry in self.table.commits.items():
            chunks = self.table.table.chunks_in(s)
            out[chunks.start : chunks.stop] = entry["kept"]
        return out

    def raw(self, k: int) -> dict[str, NDArray[Any]]:
        """Chunk `k` as stored, each column [rows, *row_shape]: maps of the file, without a copy.

        Writing to them changes memory only. Raises StoreError if it is not committed, or torn.
        """
        return {name: self.table.chunk(name, k) for name in self.columns}

    def chunk(self, k: int) -> Tensor:
        """Chunk `k`, [rows, d]: a view of the file in a float encoding's dtype, else float32."""
        stored = {
            name: encodings.from_disk(array, name, self.encoding)
            for name, array in self.raw(k).items()
        }
        if len(stored) == 1:
            return stored["acts"]
        return encodings.decode(stored, self.encoding)

    def reasons(self, k: int | None = None) -> NDArray[np.uint8]:
        """Why rows do not count (0: they do): of chunk `k`, or of all rows."""
        if k is not None:
            return self.table.chunk("mask", k)
        return self.table.rows("mask", 0, self.planned_rows)

    def keep(self) -> NDArray[np.bool_]:
        """Which rows count, bool [rows]."""
        keep: NDArray[np.bool_] = self.reasons() == 0
        return keep

    def shard_of(self, row: int) -> int:
        """The shard that holds a row."""
        return row // self.table.table.shard_rows

    def stats(self) -> Moments:
        """Moments of the kept rows. Raises StoreError before the array is finished: those that
        stayed when an array was freed count no more once it is captured again."""
        if not self.complete:
            raise StoreError(f"{self._stage} has no statistics yet: it is not finished")
        return stats_of(self._stage)

    def shard_moments(self, s: int) -> Moments:
        """Moments of the kept rows of shard `s`."""
        return Moments.from_row(self.table.chunk("statistics", s)[0], self.d)


def stats_of(stage: StageDir) -> Moments:
    """Moments of the kept rows of a finished array, also of one whose rows were freed.

    Raises StoreError when there are none.
    """
    try:
        with explained(stage.stats, "read"):
            data = stage.stats.read_bytes()
    except StoreError as error:
        raise StoreError(
            f"{stage} has no statistics: it is not finished, or is being captured again",
            hint="saectl status shows where it stands; saectl cache finishes it",
        ) from error
    return Moments.from_bytes(data)


def finish(dir: Path) -> tuple[dict[str, Any], list[Path]]:
    """Seal an array whose shards are all committed. Returns its summary, and the small files
    whose digests cover the whole of it (the commit log names every shard's).

    Joins the parts' logs, merges the shards' statistics in their order, and writes the group's
    metadata: the same bytes whoever wrote the parts. Doing it again changes nothing. For the
    holder of the stage's claim. Raises StoreError when shards are missing or no row counts.
    """
    stage = StageDir(dir)
    reader = ActivationReader(dir)
    table, files = reader.table.table, reader.files
    if not reader.complete:
        raise StoreError(
            f"{stage} holds {len(reader.table.commits)} of {table.n_shards} shards: incomplete"
        )
    moments = Moments.none(reader.d)
    for s in range(table.n_shards):
        moments = moments.merged(reader.shard_moments(s))
    if moments.count == 0:
        raise StoreError(f"{stage}: the mask drops every row", hint="loosen data.mask in the spec")
    found = {"rows": table.rows, "kept": moments.count, "mean_norm": moments.mean_norm}
    if reader.encoding == "int8":
        found["fvu_loss"] = moments.loss
    join(files, read_entries(files))
    plain = {k: v for k, v in reader.attrs.items() if k not in found}
    files.put(GROUP, encoded(table.group({**plain, **found})))
    write_bytes(stage.stats, moments.to_bytes())
    tidy_metadata(files, table)
    arrays = [f"{table.array(column)}/{METADATA}" for column in table.columns]
    records = [JOINED, GROUP, *arrays]
    if not isinstance(files, LocalFiles):
        for name in records:
            data = files.get(name)
            assert data is not None
            LocalFiles(dir).put(name, data)
    size = sum(reader.table.bytes_of(s) for s in range(table.n_shards))
    summary = {**found, "shards": table.n_shards, "bytes": size}
    return summary, [*(dir / name for name in records), stage.stats]


def declared(files: Files) -> dict[str, Any] | None:
    """The attributes that an array was begun with, or None before it was begun."""
    data = files.get(GROUP)
    if data is None:
        return None
    try:
        return dict(json.loads(data)["attributes"]["saectl"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{files.where(GROUP)} is damaged: {error!r}") from error


def declare(files: Files, table: Table, attrs: Mapping[str, Any]) -> None:
    """Begin an array: its columns, then its group, with `attrs`, which says that all of it is
    there; or make sure that it was begun with the same.

    Raises StoreError naming the first thing in which they differ.
    """
    there, wanted = declared(files), json.loads(json.dumps(dict(attrs)))
    declare_columns(files, table)
    if there is None:
        files.put(GROUP, encoded(table.group(wanted)))
        return
    for name, value in wanted.items():
        if there.get(name) != value:
            raise StoreError(
                f"{files.where(GROUP)} was written by another plan: {name} is {there.get(name)!r}, "
                f"this stage needs {value!r}",
                hint="this folder's data must go before the stage can run anew",
            )
