"""Rows of a hub dataset, streamed, and of a `save_to_disk` folder, memory-mapped.

Both through `datasets`. A hub dataset is asked for once, quickly, so that no network is an error
in seconds; there is no fall-back to whatever part of it a cache may hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError

from sae_cli.errors import DataError
from sae_cli.lm.files import missing_column, value_of
from sae_cli.lm.hub import ask, first_line, transport_error
from sae_cli.lm.refusal import dataset_refusal
from sae_cli.spec.stages import Source


def saved(path: Path, split: str, column: str, skip: int) -> Iterator[tuple[str, Any]]:
    """(where, value) of each row behind the first `skip` of a `save_to_disk` folder."""
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} looks like a saved dataset but can't be read: {first_line(error)}"
        ) from error
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise DataError(
                f"{path} has no split {split!r}; it has: {', '.join(sorted(found))}",
                hint="set `split:` in that source.",
            )
        found = found[split]
    assert isinstance(found, datasets.Dataset)
    if column not in found.column_names:
        raise missing_column(column, found.column_names, str(path))
    if skip >= len(found):
        return
    rows = found.select_columns([column]).skip(skip)
    for number, row in enumerate(rows, skip + 1):
        assert isinstance(row, dict)
        yield f"{path} row {number}", row[column]


def stream(source: Source, column: str, skip: int) -> Iterator[tuple[str, Any]]:
    """(where, value) of each row behind the first `skip` of a hub dataset."""
    assert source.hf is not None
    trouble = ask(source.hf, "dataset", source.revision)
    if trouble is not None:
        raise dataset_refusal(source, trouble)
    try:
        rows = datasets.load_dataset(
            source.hf,
            source.config,
            split=source.split,
            revision=source.revision,
            streaming=True,
        )
        assert isinstance(rows, datasets.IterableDataset)
        yield from values(rows, source.hf, column, skip)
    except DatasetNotFoundError as error:
        gated = "gated" in str(error)
        raise dataset_refusal(source, "gated" if gated else "missing") from error
    except HfHubHTTPError as error:
        raise dataset_refusal(source, "refused") from error
    except (ConnectionError, transport_error()) as error:
        raise dataset_refusal(source, "offline") from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"dataset {source.hf} can't be streamed: {first_line(error)}",
            hint="check `config:` and `split:` of that source against the dataset's page.",
        ) from error


def values(
    rows: datasets.IterableDataset, name: str, column: str, skip: int
) -> Iterator[tuple[str, Any]]:
    """(where, value of `column`) of each row behind the first `skip`. Raises DataError."""
    known = rows.column_names
    if known is not None and column not in known:
        raise missing_column(column, known, f"dataset {name}")
    behind: Iterable[Mapping[str, Any]] = rows.skip(skip) if skip else rows
    for number, row in enumerate(behind, skip + 1):
        where = f"dataset {name} row {number}"
        yield where, value_of(row, column, where)
