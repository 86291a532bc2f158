"""What is written of a row, what is read back, and what other zarr readers see of it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_cli.errors import StoreError
from sae_cli.store.acts.encodings import (
    BLOCK,
    NAMES,
    Encoding,
    columns,
    decode,
    encode,
    from_disk,
    named,
    row_bytes,
    squared_error,
    to_disk,
)
from sae_cli.store.tables.chunks import Column, Table, as_bytes, encoded

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FLOATS: list[Encoding] = ["float32", "bfloat16", "float16"]


def data(n: int = 300, d: int = 200, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows with dimensions of very different size."""
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=dice) * torch.logspace(-3, 3, d).roll(d // 3)
    return x.to(dtype)


def by_hand(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes and scales of rows [n, d], block by block, number by number."""
    codes, scales = [], []
    for row in x:
        for at in range(0, len(row), BLOCK):
            block = row[at : at + BLOCK]
            scale = torch.tensor(np.abs(block).max() / np.float32(127)).bfloat16().float().item()
            scales.append(scale)
            codes += [
                round(float(np.float32(v) / np.float32(scale))) if scale else 0 for v in block
            ]
    return (
        np.array(codes, np.float64).clip(-127, 127).reshape(x.shape),
        np.array(scales).reshape(len(x), -1),
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("d", [1, 63, 64, 65, 128, 200])
def test_int8_is_what_the_definition_says(d: int, device: str) -> None:
    x = data(140, d)
    x[3, : min(d, 64)] = 0
    codes, scales = by_hand(x.numpy())
    found = encode(x.to(device), "int8")
    assert {name: t.dtype for name, t in found.items()} == {
        "acts": torch.int8,
        "scales": torch.bfloat16,
    }
    assert found["scales"].shape == (140, -(-d // BLOCK))
    assert (found["acts"].cpu().numpy() == codes).all()
    assert (found["scales"].cpu().float().numpy() == scales).all()
    rows = decode(found, "int8")
    assert rows.dtype == torch.float32 and rows.device == found["acts"].device
    expected = codes * np.repeat(scales, BLOCK, 1)[:, :d]
    assert (rows.cpu().double().numpy() == expected).all()


def test_int8_is_off_by_half_a_scale_at_most() -> None:
    x = data(500, 256)
    columns_ = encode(x, "int8")
    off = (decode(columns_, "int8") - x).abs().view(500, 4, BLOCK)
    assert (off <= columns_["scales"].float()[..., None] * 0.5000001 + 1e-12).all()


def test_codes_stay_within_their_range_also_where_scales_round_down() -> None:
    ramp = torch.arange(1, 4001).float()[:, None] * torch.linspace(-1, 1, BLOCK)
    for x in (ramp, ramp * 1e-41):
        codes = encode(x, "int8")["acts"]
        assert (int(codes.min()), int(codes.max())) == (-127, 127)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_block_that_holds_no_number_decodes_to_none_and_spares_its_neighbours(bad: float) -> None:
    x = data(5, 150)
    expected = decode(encode(x, "int8"), "int8")
    x[2, 70] = bad
    found = encode(x, "int8")
    rows = decode(found, "int8")
    assert rows[2, 64:128].isnan().all() and (found["acts"][2, 64:128] == 0).all()
    expected[2, 64:128] = 0
    assert torch.equal(rows.nan_to_num(0.0), expected)
    assert squared_error(x, found, "int8", np.arange(5) != 2) < 1e6


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_float_encoding_is_the_nearest_number_of_its_kind(
    name: Encoding, dtype: torch.dtype
) -> None:
    x = data(dtype=dtype)
    found = encode(x, name)
    assert list(found) == ["acts"]
    assert torch.equal(found["acts"], x.to(getattr(torch, name)))
    assert torch.equal(decode(found, name), found["acts"].float())


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_decoded_into_place(name: Encoding) -> None:
    stored = encode(data(), name)
    room = torch.zeros(300, 400)
    out = room[:, ::2]
    found = decode(stored, name, out)
    assert found.data_ptr() == room.data_ptr()
    assert torch.equal(out, decode(stored, name))
    assert (room[:, 1::2] == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_error_is_that_of_a_float64_reference(name: Encoding, dtype: torch.dtype) -> None:
    x = data(dtype=dtype)
    stored = encode(x, name)
    keep = np.random.default_rng(0).random(300) < 0.6
    off = (decode(stored, name).double() - x.double()).square().sum(1).numpy()
    assert squared_error(x, stored, name) == pytest.approx(off.sum(), rel=1e-6)
    assert squared_error(x, stored, name, keep) == pytest.approx(off[keep].sum(), rel=1e-6)


def test_what_is_stored_whole_has_no_error_and_what_does_not_fit_an_infinite_one() -> None:
    x = torch.full((2, 3), 1e6)
    assert squared_error(x, encode(x, "float32"), "float32") == 0.0
    assert squared_error(x.bfloat16(), encode(x, "bfloat16"), "bfloat16") == 0.0
    assert squared_error(x.bfloat16(), encode(x.bfloat16(), "float32"), "float32") == 0.0
    assert squared_error(x, encode(x, "float16"), "float16") == float("inf")


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_are_encoded_too(name: Encoding) -> None:
    stored = encode(torch.empty(0, 100), name)
    assert decode(stored, name).shape == (0, 100)
    assert squared_error(torch.empty(0, 100), stored, name) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_as_declared_and_come_back_from_the_disk(name: Encoding) -> None:
    stored = encode(data(), name)
    declared = columns(name, 200)
    assert [c.name for c in declared] == list(stored)
    size = 0
    for column in declared:
        array = to_disk(stored[column.name])
        assert array.dtype == np.dtype(column.dtype)
        assert array.shape == (300, *column.row_shape)
        assert np.shares_memory(array, to_disk(stored[column.name])), "a copy was made"
        again = from_disk(array, column.name, name)
        assert again.dtype == stored[column.name].dtype
        assert torch.equal(again, stored[column.name])
        assert again.data_ptr() == stored[column.name].data_ptr()
        size += array.nbytes
    assert row_bytes(name, 200) * 300 == size


def test_bytes_of_a_row() -> None:
    assert [row_bytes(name, 2560) for name in NAMES] == [10240, 5120, 5120, 2560 + 2 * 40]
    assert row_bytes("int8", 65) == 65 + 4


def test_what_may_not_be_written_to_is_read_without_a_warning() -> None:
    array = np.frombuffer(bytes(range(8)), np.uint16).reshape(1, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = from_disk(array, "acts", "bfloat16")
    assert found.dtype == torch.bfloat16
    assert to_disk(found).tobytes() == bytes(range(8))


def test_only_known_encodings_have_a_name() -> None:
    assert [named(name) for name in NAMES] == list(NAMES)
    with pytest.raises(StoreError, match="int4"):
        named("int4")


def every_bfloat16() -> torch.Tensor:
    """[2048, 32], all of them: zeros of both signs, subnormals, infinities, NaN."""
    return torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).view(-1, 32)


def written(table: Table, values: dict[str, np.ndarray], at: Path) -> Path:
    """A table's files, by hand."""
    for column in table.columns:
        folder = at / table.array(column)
        folder.mkdir(parents=True)
        (folder / "zarr.json").write_bytes(encoded(table.metadata(column)))
        for s in range(table.n_shards):
            rows = values[column.name][s * table.shard_rows :][: table.rows_in(s)]
            (at / table.file(column, s)).write_bytes(bytes(as_bytes(rows)) + table.tail(column, s))
    (at / table.folder / "zarr.json").write_bytes(encoded(table.group({})))
    return at / table.folder


def table_of(name: Encoding, rows: int, d: int, shard: int) -> Table:
    stored = [Column(c.name, c.dtype, c.row_shape, ("dim",), *c[3:]) for c in columns(name, d)]
    return Table("t", rows, 100, shard, tuple(stored))


QUIET = pytest.mark.filterwarnings(
    "ignore:Numcodecs codecs are not in the Zarr version 3", "ignore:invalid value encountered"
)
"""zarr warns of codecs that only zarr-python knows; numpy, where it divides a signalling NaN."""


@QUIET
@pytest.mark.parametrize("shard", [100, 500])
def test_zarr_sees_every_bfloat16_as_it_is(tmp_path: Path, shard: int) -> None:
    zarr: Any = pytest.importorskip("zarr")
    x = every_bfloat16()
    table = table_of("bfloat16", 2048, 32, shard)
    codecs = json.dumps(table.metadata(table.columns[0])["codecs"])
    assert ("sharding_indexed" in codecs) == (shard == 500)
    at = written(table, {"acts": to_disk(x)}, tmp_path)
    array = zarr.open_group(at, mode="r")["acts"]
    assert array.dtype == np.float32 and array.shape == (2048, 32)
    seen, exact = array[:], x.float().numpy()
    number = ~np.isnan(exact)
    assert number.sum() == 2**16 - 2 * 127
    assert (np.isnan(seen) == ~number).all()
    assert (seen.view(np.uint32)[number] == exact.view(np.uint32)[number]).all()
    assert (array[1030:1050, 3] == exact[1030:1050, 3]).all()


@QUIET
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shard", [100, 300])
def test_zarr_reads_what_we_decode(tmp_path: Path, name: Encoding, shard: int) -> None:
    zarr: Any = pytest.importorskip("zarr")
    x = data(730, 200)
    stored = encode(x, name)
    values = {column: to_disk(values) for column, values in stored.items()}
    group = zarr.open_group(written(table_of(name, 730, 200, shard), values, tmp_path), mode="r")
    seen = group["acts"][:].astype(np.float32)
    if name == "int8":
        seen *= np.repeat(group["scales"][:], BLOCK, 1)[:, :200]
    assert (seen == decode(stored, name).numpy()).all()
