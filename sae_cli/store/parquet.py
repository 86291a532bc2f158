"""Rows as a Parquet file. pyarrow is heavy, so it is loaded when a table is written, and here."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any


def parquet(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Any]) -> bytes:
    """Bytes of a Parquet file of `rows`; `columns` gives each one's type as a Python annotation.

    A column whose every value is null still has its own type, so that tables of different sweeps
    can be read as one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([pa.field(name, kinds[_plain(kind)]) for name, kind in columns.items()])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(r) for r in rows], schema=schema), sink)
    return bytes(sink.getvalue().to_pybytes())


def _plain(kind: Any) -> type:
    """`str`, `int` or `float`, without `None`; a choice of words is a `str`."""
    if isinstance(kind, types.UnionType):
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        return str
    assert isinstance(kind, type)
    return kind
