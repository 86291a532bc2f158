"""One column of a local text file, row by row, in memory that does not grow with the file.

`rows` yields (row number, value) with the row numbers a person would look for: lines of a .jsonl,
rows of a table, documents of a .txt. What is malformed is an error that names the file and the
row; nothing is skipped but blank lines. The value's type is the caller's business.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from sae_cli.errors import DataError
from sae_cli.lm.hub import first_line

_BLOCK = 32 * 2**20
_PIECE = 2**20
Rows = Iterator[tuple[int, Any]]


def rows(path: Path, column: str, skip: int = 0) -> Rows:
    """(1-based row number, value of `column`) of each row behind the first `skip`.

    A .jsonl holds one object per line, a .json an array of objects or one object per line, a .txt
    documents separated by blank lines (it has one nameless column: `column` is not looked at).
    Raises DataError: unreadable, malformed, or without that column.
    """
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path, column, skip)
        else:
            yield from islice(READERS[path.suffix](path, column), skip, None)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(
            f"{path} can't be read: {type(error).__name__}: {first_line(error)}",
            hint=f"check that it is a whole {path.suffix} file in UTF-8.",
        ) from error


def count(path: Path, column: str) -> int:
    """Number of rows of `path`. Raises DataError as `rows`."""
    if path.suffix == ".parquet":
        try:
            return int(pyarrow.parquet.read_metadata(path).num_rows)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} is not a whole parquet file") from error
    return sum(1 for _ in rows(path, column))


def value_of(row: Any, column: str, where: str) -> Any:
    """`row[column]`. Raises DataError with the columns there are, if that is none of them."""
    if not isinstance(row, dict):
        raise DataError(f"{where} is a {type(row).__name__}, and an object with fields is needed")
    if column not in row:
        raise missing_column(column, row, where)
    return row[column]


def missing_column(column: str, have: Iterable[str], where: str) -> DataError:
    """The error for a column that is not there."""
    names = list(have)
    close = difflib.get_close_matches(column, names, n=1)
    ask = f"did you mean {close[0]}? " if close else ""
    return DataError(
        f"{where} has no column {column!r}; it has: {', '.join(names) or 'none'}",
        hint=f"{ask}set `text: <column>` (or `messages: <column>`) in that source.",
    )


def _jsonl(path: Path, column: str) -> Rows:
    with path.open(encoding="utf-8-sig") as lines:
        yield from _json_lines(path, column, lines)


def _json_lines(path: Path, column: str, lines: Iterable[str]) -> Rows:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path} line {number} is not valid JSON: {error.msg} (column {error.colno})",
                hint="each line has to hold one JSON object.",
            ) from error
        yield number, value_of(row, column, f"{path} line {number}")


def _json(path: Path, column: str) -> Rows:
    with path.open(encoding="utf-8-sig") as handle:
        start = handle.read(_PIECE).lstrip()[:1]
        handle.seek(0)
        if start != "[":
            yield from _json_lines(path, column, handle)
            return
        for number, row in enumerate(_array(path, handle), 1):
            yield number, value_of(row, column, f"{path} element {number}")


def _array(path: Path, handle: IO[str]) -> Iterator[Any]:
    """The elements of one JSON array, decoded one by one as the file is read."""
    decoder = json.JSONDecoder()
    text = handle.read(_PIECE).lstrip()[1:]
    number = 1
    while True:
        text = text.lstrip()
        if text.startswith("]"):
            return
        try:
            element, end = decoder.raw_decode(text)
            after = text[end:].lstrip()
            if after[:1] in (",", "]"):
                yield element
                number += 1
                text = after.removeprefix(",")
                continue
            problem = "a comma or ] is missing" if after else "it ends early"
        except json.JSONDecodeError as error:
            problem = error.msg
        more = handle.read(max(_PIECE, len(text)))
        if not more:
            raise DataError(f"{path} element {number} is not valid JSON: {problem}")
        text += more


def _csv(path: Path, column: str) -> Rows:
    table = pyarrow.csv
    options = {
        "read_options": table.ReadOptions(block_size=_BLOCK),
        "parse_options": table.ParseOptions(newlines_in_values=True),
    }
    only = table.ConvertOptions(column_types={column: pa.string()}, include_columns=[column])
    try:
        batches = table.open_csv(path, convert_options=only, **options)
    except KeyError:
        names = table.open_csv(path, **options).schema.names
        raise missing_column(column, names, str(path)) from None
    number = 0
    for batch in batches:
        for value in batch.column(0).to_pylist():
            number += 1
            yield number, value


def _txt(path: Path, column: str) -> Rows:
    lines: list[str] = []
    number = 0
    with path.open(encoding="utf-8-sig") as handle:
        for line in handle:
            if line.strip():
                lines.append(line.rstrip("\n"))
            elif lines:
                number += 1
                yield number, "\n".join(lines)
                lines = []
    if lines:
        yield number + 1, "\n".join(lines)


def _parquet(path: Path, column: str, skip: int) -> Rows:
    with pyarrow.parquet.ParquetFile(path) as table:
        if column not in table.schema_arrow.names:
            raise missing_column(column, table.schema_arrow.names, str(path))
        number = 0
        for group in range(table.num_row_groups):
            size = table.metadata.row_group(group).num_rows
            if number + size <= skip:
                number += size
                continue
            for batch in table.iter_batches(256, row_groups=[group], columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    if number > skip:
                        yield number, value


READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".txt": _txt,
}
SUFFIXES = (*READERS, ".parquet")
"""The kinds of file that can be read."""
