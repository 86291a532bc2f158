"""Token blocks: splits under one log, the packer's state with every commit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr

from sae_cli.errors import StoreError
from sae_cli.store.blocks import BlockReader, BlockWriter

CONTEXT, BLOCKS, CHUNK = 5, {"train": 7, "heldout": 4}, 3


def arrays(split: str, start: int, n: int) -> tuple[np.ndarray, ...]:
    base = np.arange(start * CONTEXT, (start + n) * CONTEXT).reshape(n, CONTEXT)
    tokens = base + (1000 if split == "heldout" else 0)
    return (
        tokens.astype(np.int32),
        (base // 7 + 2**40).astype(np.int64),
        (base % 7).astype(np.int32),
        (base % 3 == 0).astype(np.uint8),
    )


def write_next(writer: BlockWriter, split: str) -> None:
    k = writer.next_chunk(split)
    cursor = (writer.last_state() or {"cursor": 0})["cursor"]
    rows = arrays(split, k * CHUNK, writer.rows_in(split, k))
    writer.write(split, *rows, state={"cursor": cursor + 1, "last": [split, k]})


def fill(writer: BlockWriter) -> None:
    for split in BLOCKS:
        while not writer.complete(split):
            write_next(writer, split)


def test_what_is_read_is_what_was_written_in_any_range(tmp_path: Path) -> None:
    with BlockWriter(tmp_path, CONTEXT, BLOCKS, CHUNK) as writer:
        fill(writer)
        assert writer.finish() == {"blocks": BLOCKS}
    reader = BlockReader(tmp_path)
    assert (reader.context, reader.splits) == (CONTEXT, ("heldout", "train"))
    for split, n in BLOCKS.items():
        assert reader.n_blocks(split) == n and reader.complete(split)
        for start in range(n + 1):
            for stop in range(start, n + 1):
                read = (reader.tokens, reader.document, reader.position, reader.reasons)
                for get, expected in zip(read, arrays(split, start, stop - start), strict=True):
                    got = get(split, start, stop)
                    assert got.dtype == expected.dtype
                    np.testing.assert_array_equal(got, expected)
    for table in reader.tables:
        assert [d for s in table.commits for d in table.damages(s)] == []


def test_a_writer_goes_on_with_the_state_of_the_latest_commit_of_either_split(
    tmp_path: Path,
) -> None:
    with BlockWriter(tmp_path / "a", CONTEXT, BLOCKS, CHUNK) as writer:
        assert writer.last_state() is None
        for split in ("train", "heldout", "train"):
            write_next(writer, split)
    with BlockWriter(tmp_path / "a", CONTEXT, BLOCKS, CHUNK) as writer:
        assert writer.last_state() == {"cursor": 3, "last": ["train", 1]}
        assert (writer.next_chunk("train"), writer.next_chunk("heldout")) == (2, 1)
        with pytest.raises(StoreError, match="2 of 3 chunks: incomplete"):
            writer.finish()
        reader = BlockReader(tmp_path / "a")
        assert (reader.n_blocks("train"), reader.n_blocks("heldout")) == (6, 3)
        with pytest.raises(StoreError, match=r"chunk 1 is not committed \(1 of 2 shards are\)"):
            reader.tokens("heldout", 0, 4)
        fill(writer)
        writer.finish()


def test_zarr_and_xarray_read_the_same_blocks(tmp_path: Path) -> None:
    with BlockWriter(tmp_path, CONTEXT, BLOCKS, CHUNK) as writer:
        fill(writer)
    names = ("tokens", "document", "position", "reasons")
    for split, n in BLOCKS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            group: Any = zarr.open_group(tmp_path / f"{split}.zarr", mode="r")
            data = xarray.open_zarr(tmp_path / f"{split}.zarr", chunks=None)
        assert data.sizes == {"row": n, "place": CONTEXT}
        for name, expected in zip(names, arrays(split, 0, n), strict=True):
            assert group[name].dtype == data[name].dtype == expected.dtype
            np.testing.assert_array_equal(group[name][:], expected)
            np.testing.assert_array_equal(data[name].values, expected)


def test_wrong_blocks_and_unknown_splits_are_refused(tmp_path: Path) -> None:
    with BlockWriter(tmp_path, CONTEXT, BLOCKS, CHUNK) as writer:
        tokens, document, position, reasons = arrays("train", 0, CHUNK)
        with pytest.raises(
            StoreError, match=r"position: shard 0 holds 3 rows of \(5,\) <i4, got \(3, 5\) <i8"
        ):
            writer.write("train", tokens, document, position.astype(np.int64), reasons)
        with pytest.raises(StoreError, match="shard 0 has 3 rows, got 2"):
            writer.write("train", tokens[:2], document[:2], position[:2], reasons[:2])
        fill(writer)
        with pytest.raises(StoreError, match=r"has no shard 3 \(it has 3\)"):
            writer.write("train", tokens, document, position, reasons)
    with pytest.raises(StoreError, match="no split 'test'"):
        BlockReader(tmp_path).tokens("test", 0, 1)
    with pytest.raises(StoreError, match="no token blocks"):
        BlockReader(tmp_path / "none")


def test_a_split_without_blocks_is_complete_and_empty(tmp_path: Path) -> None:
    with BlockWriter(tmp_path, CONTEXT, {"train": 3, "heldout": 0}, CHUNK) as writer:
        write_next(writer, "train")
        writer.finish()
    assert BlockReader(tmp_path).tokens("heldout", 0, 0).shape == (0, CONTEXT)


def test_a_damaged_column_is_named(tmp_path: Path) -> None:
    with BlockWriter(tmp_path, CONTEXT, BLOCKS, CHUNK) as writer:
        fill(writer)
    path = tmp_path / "heldout.zarr" / "document" / "c.1.0"
    path.write_bytes(bytes(len(path.read_bytes())))
    found = [str(d) for t in BlockReader(tmp_path).tables for s in t.commits for d in t.damages(s)]
    what = f"{path} does not match its checksum"
    assert found == [f"array heldout.zarr/document, shard 1 (rows 3 to 3): {what}"]


def test_records_cover_metadata_and_log(tmp_path: Path) -> None:
    with BlockWriter(tmp_path, CONTEXT, BLOCKS, CHUNK) as writer:
        fill(writer)
        records = writer.records()
    rest = {path for path in tmp_path.rglob("*") if path.is_file() and path.name[:2] != "c."}
    assert set(records) == rest and len(records) == 1 + 2 * 5


def test_a_second_writer_and_another_plan_are_refused(tmp_path: Path) -> None:
    with BlockWriter(tmp_path, CONTEXT, BLOCKS, CHUNK) as writer:
        write_next(writer, "train")
        with pytest.raises(StoreError, match="another process is writing"):
            BlockWriter(tmp_path, CONTEXT, BLOCKS, CHUNK)
        write_next(writer, "train")
    for context, blocks, chunk in (
        (CONTEXT + 1, BLOCKS, CHUNK),
        (CONTEXT, {"train": 8, "heldout": 4}, CHUNK),
        (CONTEXT, BLOCKS, 2),
        (CONTEXT, {"heldout": 4}, CHUNK),
    ):
        with pytest.raises(StoreError, match="written by another plan"):
            BlockWriter(tmp_path, context, blocks, chunk)
    with BlockWriter(tmp_path, CONTEXT, BLOCKS, CHUNK) as writer:
        fill(writer)
        writer.finish()
