"""The files of a sweep's results, beside its view: `runs/<sweep>/results.parquet` and `.jsonl`.

A file whose bytes would not change is left as it is, so that writing again costs little and a
workspace that is done stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sae_cli.report.table import LongRow, jsonl
from sae_cli.store.atomic import write_bytes

JSONL, PARQUET = "results.jsonl", "results.parquet"


def write_tables(rows: Sequence[LongRow], view: Path) -> tuple[Path, Path]:
    """Write both files into `view` (a sweep's folder under runs/) and return their paths.

    Raises StoreError when they can't be written.
    """
    lines, table = view / JSONL, view / PARQUET
    view.mkdir(parents=True, exist_ok=True)
    if put(lines, jsonl(rows)) or not table.is_file():
        from sae_cli.store.parquet import parquet

        columns = {name: field.annotation for name, field in LongRow.model_fields.items()}
        put(table, parquet([row.model_dump() for row in rows], columns))
    return lines, table


def put(path: Path, data: bytes) -> bool:
    """Write `data` unless the file says so already; whether it was written."""
    if path.is_file() and path.read_bytes() == data:
        return False
    write_bytes(path, data)
    return True
