"""What a table looks like on disk: a zarr v3 group of raw arrays that share their rows.

    <name>.zarr/zarr.json              the group, with its arrays' metadata consolidated
    <name>.zarr/<column>/zarr.json     an array (a column)
    <name>.zarr/<column>/c.7.0         its shard 7: rows back to back, then zarr's index

A *chunk* is what is read at once, a *shard* is what is committed at once: one file per column.
The rows of a shard lie in its file one after another, uncompressed, so a chunk is a plain range
of bytes: we map it, and any zarr reader finds it through the index at the end of the file. Where
shard and chunk are one size there is no index. A column may also hold one row per shard.

This module knows names, sizes and bytes; it reads and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
METADATA = "zarr.json"
ABSENT = 2**64 - 1
"""What the index says of a chunk that a short last shard does not have."""


@dataclass(frozen=True)
class Column:
    """One array of a table."""

    name: str
    dtype: str
    """numpy's name of what lies on disk, little-endian."""
    row_shape: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    """Names of the dimensions of a row."""
    codecs: tuple[Mapping[str, Any], ...] = ()
    """zarr's array-to-array codecs that lead from the numbers to what lies on disk."""
    data_type: str | None = None
    """zarr's name of the numbers; None where they are what lies on disk."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    per_shard: bool = False
    """One row per shard instead of one per row."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk."""
        size: int = np.dtype(self.dtype).itemsize
        for n in self.row_shape:
            size *= n
        return size


@dataclass(frozen=True)
class Place:
    """Where some rows are: a file (relative), and a range of its bytes."""

    file: str
    offset: int
    size: int


@dataclass(frozen=True)
class Table:
    """Columns of `rows` rows, read in chunks of `chunk_rows`, committed in shards."""

    name: str
    rows: int
    chunk_rows: int
    shard_rows: int
    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        assert min(self.rows, self.chunk_rows) > 0 or self.rows == 0
        assert self.shard_rows % self.chunk_rows == 0

    @property
    def n_chunks(self) -> int:
        """Chunks in the finished table; the last may hold fewer rows."""
        return -(-self.rows // self.chunk_rows)

    @property
    def n_shards(self) -> int:
        """Shards in the finished table; the last may hold fewer rows."""
        return -(-self.rows // self.shard_rows)

    @property
    def chunks_per_shard(self) -> int:
        """Chunks in a full shard."""
        return self.shard_rows // self.chunk_rows

    def rows_in(self, s: int) -> int:
        """Rows of shard `s`."""
        return min(self.shard_rows, self.rows - s * self.shard_rows)

    def rows_in_chunk(self, k: int) -> int:
        """Rows of chunk `k` that are data; the rest of it is zeros."""
        return min(self.chunk_rows, self.rows - k * self.chunk_rows)

    def chunks_in(self, s: int) -> range:
        """Chunks of shard `s`."""
        first = s * self.chunks_per_shard
        return range(first, min(first + self.chunks_per_shard, self.n_chunks))

    @property
    def folder(self) -> str:
        """The group's folder, relative to the stage's."""
        return f"{self.name}.zarr"

    def array(self, column: Column) -> str:
        """A column's folder, relative to the stage's."""
        return f"{self.folder}/{column.name}"

    def file(self, column: Column, s: int) -> str:
        """A shard's file, relative to the stage's folder."""
        return f"{self.array(column)}/" + ".".join(["c", str(s), *("0" for _ in column.row_shape)])

    def place(self, column: Column, k: int) -> Place:
        """Where chunk `k` of a column is (of a column with one row per shard: row `k`)."""
        if column.per_shard:
            return Place(self.file(column, k), 0, column.row_bytes)
        s, inner = divmod(k, self.chunks_per_shard)
        size = column.row_bytes * self.chunk_rows
        return Place(self.file(column, s), inner * size, size)

    def tail(self, column: Column, s: int) -> bytes:
        """What follows the data rows in a shard's file: zeros up to a whole chunk, and the index.

        The index (zarr v3 core, `sharding_indexed`, index at the end): offset and size of each
        chunk as uint64, then crc32c of these bytes.
        """
        if column.per_shard:
            return b""
        rows, chunks = self.rows_in(s), len(self.chunks_in(s))
        padding = bytes((chunks * self.chunk_rows - rows) * column.row_bytes)
        if self.chunks_per_shard == 1:
            return padding
        from google_crc32c import value as crc32c

        size = column.row_bytes * self.chunk_rows
        index = np.full((self.chunks_per_shard, 2), ABSENT, "<u8")
        index[:chunks, 0] = np.arange(chunks) * size
        index[:chunks, 1] = size
        data = index.tobytes()
        return padding + data + int(crc32c(data)).to_bytes(4, "little")

    def file_size(self, column: Column, s: int) -> int:
        """Bytes of a shard's file."""
        rows = 1 if column.per_shard else self.rows_in(s)
        return rows * column.row_bytes + len(self.tail(column, s))

    def metadata(self, column: Column) -> dict[str, Any]:
        """The array's zarr.json."""
        rows, shard, chunk = self.rows, self.shard_rows, self.chunk_rows
        if column.per_shard:
            rows, shard, chunk = self.n_shards, 1, 1
        dtype = np.dtype(column.dtype)
        raw: dict[str, Any] = {"name": "bytes"}
        if dtype.itemsize > 1:
            raw["configuration"] = {"endian": "little"}
        codecs: list[Any] = [*map(dict, column.codecs), raw]
        if shard != chunk:
            inner = {
                "chunk_shape": [chunk, *column.row_shape],
                "codecs": codecs,
                "index_codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "crc32c"},
                ],
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": inner}]
        about = {**column.attrs, "disk": column.dtype}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows, *column.row_shape],
            "data_type": column.data_type or dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [shard, *column.row_shape]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0,
            "codecs": codecs,
            "attributes": {"saectl": about},
            "dimension_names": ["shard" if column.per_shard else "row", *column.dims],
            "storage_transformers": [],
        }

    def group(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """The group's zarr.json: its attributes, and its arrays' metadata, consolidated."""
        return {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"saectl": dict(attrs)},
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": {c.name: self.metadata(c) for c in self.columns},
            },
        }


def encoded(metadata: Mapping[str, Any]) -> bytes:
    """A zarr.json's bytes."""
    return (json.dumps(metadata, indent=2, ensure_ascii=False) + "\n").encode()


def column_of(name: str, metadata: Mapping[str, Any]) -> tuple[Column, int, int, int]:
    """A column as its zarr.json tells, with its rows, rows of a chunk, and rows of a shard.

    Raises ValueError, KeyError or TypeError for metadata that `Table.metadata` does not make.
    """
    shape, shard = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
    chunk, codecs = shard, metadata["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        inner = codecs[0]["configuration"]
        chunk, codecs = inner["chunk_shape"], inner["codecs"]
    about = dict(metadata["attributes"]["saectl"])
    dtype = about.pop("disk")
    names = metadata["dimension_names"]
    column = Column(
        name,
        np.dtype(dtype).str,
        tuple(shape[1:]),
        tuple(names[1:]),
        tuple(codecs[:-1]),
        metadata["data_type"] if codecs[:-1] else None,
        about,
        per_shard=names[0] == "shard",
    )
    if codecs[-1]["name"] != "bytes" or chunk[1:] != shape[1:] or shard[1:] != shape[1:]:
        raise ValueError("not an array of raw whole-row chunks")
    return column, shape[0], chunk[0], shard[0]


def as_bytes(array: Array) -> memoryview:
    """The bytes of an array in C order, without a copy where it lies so already."""
    flat: Array = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.data
