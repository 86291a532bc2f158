"""Arrays on disk: raw rows that zarr and xarray read as numbers, and that are mapped uncopied."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
import zarr
from arrays import ABOUT, ALL, CHUNK, FLOATS, SHARD, SHARDS, D, N, acts, reasons, written

from sae_cli.errors import StoreError
from sae_cli.store.acts.array import ActivationReader, ArrayPlan
from sae_cli.store.acts.encodings import Encoding
from sae_cli.store.acts.moments import row_length
from sae_cli.store.tables.chunks import Column, Table
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.reader import TableReader
from sae_cli.store.tables.writer import TableWriter

LAYOUTS = {"sharded": SHARD, "one chunk a shard": CHUNK, "one shard": 96}
NOT_OURS = "ignore:Numcodecs codecs are not in the Zarr version 3 specification"
"""What zarr says of any numcodecs codec; nothing else may be said."""


def stored(encoding: Encoding) -> torch.Tensor:
    """The rows as a float encoding keeps them, in float32."""
    return acts().to(getattr(torch, encoding)).float()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("encoding", FLOATS)
def test_zarr_reads_the_very_numbers(tmp_path: Path, encoding: Encoding, layout: str) -> None:
    written(tmp_path, encoding, LAYOUTS[layout])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(*NOT_OURS.split(":"))
        group: Any = zarr.open_group(tmp_path / "activations.zarr", mode="r")
        rows, mask, statistics = (group[name][:] for name in ("acts", "mask", "statistics"))
    assert group["acts"].shape == (N, D)
    assert rows.dtype == (np.float16 if encoding == "float16" else np.float32)
    np.testing.assert_array_equal(rows.astype(np.float32), stored(encoding).numpy())
    np.testing.assert_array_equal(mask, reasons())
    assert statistics.shape == (-(-N // LAYOUTS[layout]), row_length(D))
    assert statistics[:, 0].sum() == (reasons() == 0).sum()
    assert group["acts"][N - 1, 3] == stored(encoding)[N - 1, 3]
    names = {name: array.metadata.dimension_names for name, array in group.arrays()}
    assert names == {"acts": ("row", "dim"), "mask": ("row",), "statistics": ("shard", "value")}
    assert group.attrs["saectl"].items() >= {**ABOUT, "encoding": encoding}.items()


@pytest.mark.filterwarnings(NOT_OURS)
def test_zarr_reads_int8_codes_and_scales_that_multiply_to_the_rows(tmp_path: Path) -> None:
    written(tmp_path, "int8")
    group: Any = zarr.open_group(tmp_path / "activations.zarr", mode="r")
    codes, scales = group["acts"][:], group["scales"][:]
    assert codes.dtype == np.int8 and scales.dtype == np.float32 and scales.shape == (N, 2)
    rows = codes * np.repeat(scales, 64, axis=1)[:, :D]
    reader = ActivationReader(tmp_path)
    ours = torch.cat([reader.chunk(k) for k in range(reader.n_chunks)])
    np.testing.assert_array_equal(rows, ours.numpy())
    assert np.abs(rows - acts().numpy()).max() <= scales.max() * 0.51
    assert group["scales"].metadata.dimension_names == ("row", "block")


@pytest.mark.filterwarnings(NOT_OURS)
@pytest.mark.parametrize("encoding", ALL)
def test_xarray_opens_the_group_with_named_dimensions(tmp_path: Path, encoding: Encoding) -> None:
    written(tmp_path, encoding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(*NOT_OURS.split(":"))
        data = xarray.open_zarr(tmp_path / "activations.zarr", chunks=None)
        kept = data["acts"].isel(row=np.flatnonzero(data["mask"].values == 0)).values
    sizes = {"row": N, "dim": D, "shard": SHARDS, "value": row_length(D)}
    assert data.sizes == (sizes | {"block": 2} if encoding == "int8" else sizes)
    assert data["acts"].dims == ("row", "dim") and kept.shape == ((reasons() == 0).sum(), D)
    if encoding != "int8":
        np.testing.assert_array_equal(kept, stored(encoding).numpy()[reasons() == 0])


@pytest.mark.parametrize("encoding", FLOATS)
def test_a_chunk_is_a_view_of_the_file_that_can_not_change_it(
    tmp_path: Path, encoding: Encoding
) -> None:
    written(tmp_path, encoding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader = ActivationReader(tmp_path)
        raw, chunk = reader.raw(4)["acts"], reader.chunk(4)
    file = tmp_path / "activations.zarr" / "acts" / "c.1.0"
    lines = Path("/proc/self/maps").read_text().splitlines()
    ours = [
        [int(edge, 16) for edge in line.split()[0].split("-")]
        for line in lines
        if str(file) in line
    ]
    for address in (raw.ctypes.data, chunk.data_ptr()):
        assert any(start <= address < stop for start, stop in ours)
    assert chunk.dtype == getattr(torch, encoding)
    chunk.zero_()
    again = ActivationReader(tmp_path).chunk(4)
    assert torch.equal(again.float(), stored(encoding)[4 * CHUNK : 5 * CHUNK])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_chunk_is_a_plain_range_of_its_file(tmp_path: Path, layout: str) -> None:
    written(tmp_path, "float32", LAYOUTS[layout])
    table = ArrayPlan(N, D, CHUNK, LAYOUTS[layout], "float32").table()
    column = table.columns[0]
    for k in range(table.n_chunks):
        place = table.place(column, k)
        data = (tmp_path / place.file).read_bytes()[place.offset :][: place.size]
        rows = np.frombuffer(data, "<f4").reshape(CHUNK, D)
        n = table.rows_in_chunk(k)
        np.testing.assert_array_equal(rows[:n], acts()[k * CHUNK :][:n])
        assert not rows[n:].any()
    for s in range(table.n_shards):
        assert (tmp_path / table.file(column, s)).stat().st_size == table.file_size(column, s)


def test_any_range_of_rows_is_read(tmp_path: Path) -> None:
    written(tmp_path, "float32")
    reader = ActivationReader(tmp_path).table
    for start in range(0, N + 1, 5):
        for stop in range(start, N + 1, 3):
            np.testing.assert_array_equal(reader.rows("acts", start, stop), acts()[start:stop])
    for start, stop in ((-1, 3), (5, 4), (0, N + 1)):
        with pytest.raises(StoreError, match=f"rows {start} to {stop} were asked for, it has {N}"):
            reader.rows("acts", start, stop)


def small() -> Table:
    return Table("t", 5, 2, 4, (Column("x", "<i4", (3,), ("place",)), Column("y", "|u1")))


def values(n: int) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.arange(n * 3, dtype=np.int32).reshape(n, 3), "y": np.arange(n, dtype=np.uint8)}


def test_wrong_shards_are_refused_and_nothing_is_left_of_them(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    with TableWriter(files, [small()], files.log("commits")) as writer:
        writer.write("t", 1, values(1), {})
        before = sorted(tmp_path.rglob("*"))
        wrong = [
            (0, values(3), "shard 0 has 4 rows, got 3"),
            (0, values(5), r"holds 4 rows of \(3,\) <i4, got \(5, 3\) <i4"),
            (0, {**values(4), "x": values(4)["x"].astype(np.int64)}, r"got \(4, 3\) <i8"),
            (0, {**values(4), "x": values(4)["x"][:, :2]}, r"got \(4, 2\) <i4"),
            (1, values(1), "of 2 shards 1 are committed, it among them"),
            (2, values(1), r"no shard 2 \(it has 2\)"),
        ]
        for s, offered, message in wrong:
            with pytest.raises(StoreError, match=message):
                writer.write("t", s, offered, {})
        assert sorted(tmp_path.rglob("*")) == before and list(writer.committed["t"]) == [1]
        writer.write("t", 0, values(4), {"state": 7})
    reader = TableReader(files, files.read_log("commits"), "t", ("x", "y"))
    assert reader.complete and reader.commits[0]["state"] == 7
    np.testing.assert_array_equal(reader.chunk("x", 1), values(4)["x"][2:])


def test_a_table_that_is_not_as_we_write_them_is_refused(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    with pytest.raises(StoreError, match=r"there is no array at .*t\.zarr/x"):
        TableReader(files, [], "t", ("x",))
    zarr.create_array(tmp_path / "t.zarr" / "x", shape=(4, 3), chunks=(2, 2), dtype="int32")
    with pytest.raises(StoreError, match="does not declare an array as saectl writes them"):
        TableReader(files, [], "t", ("x",))
    with pytest.raises(StoreError, match=r"written by another plan: shape is \[4, 3\]"):
        TableWriter(files, [small()], files.log("commits"))
    files.log("commits").close()  # the one that was refused let go of it
    for damage in (b'{"shape": [4, 3', b"[4]"):
        (tmp_path / "t.zarr" / "x" / "zarr.json").write_bytes(damage)
        with pytest.raises(StoreError, match=r"x/zarr\.json is damaged"):
            TableWriter(files, [small()], files.log("commits"))
        with pytest.raises(StoreError, match=r"x/zarr\.json does not declare"):
            TableReader(files, [], "t", ("x",))
