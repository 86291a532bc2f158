"""Activations on disk: an ordinary zarr array, mapped without a copy, refused when wrong."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from sae_cli.errors import StoreError
from sae_cli.store.activations import ActivationReader, ActivationWriter
from sae_cli.store.claim import claim
from sae_cli.store.layout import StageDir
from sae_cli.store.ledger import evict, record_done, verify_done
from sae_cli.store.moments import Moments
from sae_cli.store.status import Status, state

N, D, CHUNK = 50, 6, 16
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def rows(dtype: str = "bfloat16") -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(3)).to(DTYPES[dtype])


def reasons() -> np.ndarray:
    return (np.arange(N) % 7 == 0).astype(np.uint8) * 2


def fill(writer: ActivationWriter, x: torch.Tensor, stop: int | None = None) -> None:
    for k in range(writer.next_chunk, writer.n_chunks if stop is None else stop):
        part = slice(k * CHUNK, k * CHUNK + writer.rows_in(k))
        writer.write(k, x[part], reasons()[part], {"document": k})


def written(folder: Path, dtype: str = "bfloat16") -> torch.Tensor:
    x = rows(dtype)
    with ActivationWriter(folder, N, D, CHUNK, dtype, {"site": "mlp_out"}) as writer:  # type: ignore[arg-type]
        fill(writer, x)
        writer.finish()
    return x


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_read_is_what_was_written(tmp_path: Path, dtype: str) -> None:
    x = written(tmp_path, dtype)
    reader = ActivationReader(tmp_path)
    assert (reader.n_rows, reader.d, reader.dtype, reader.complete) == (N, D, x.dtype, True)
    assert reader.attrs["site"] == "mlp_out" and reader.attrs["encoding"] == dtype
    assert torch.equal(torch.cat([reader.chunk(k) for k in range(reader.n_chunks)]), x)
    assert (reader.keep() == (reasons() == 0)).all() and (reader.reasons() == reasons()).all()
    assert reader.verify() == 4 * CHUNK * (D * x.element_size() + 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_zarr_reads_the_same_array(tmp_path: Path, dtype: str) -> None:
    x = written(tmp_path, dtype)
    array = zarr.open_array(tmp_path / "acts.zarr", mode="r")
    values = np.asarray(array[:])
    seen = x.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else x.numpy()
    assert array.shape == (N, D) and values.dtype == seen.dtype
    np.testing.assert_array_equal(values, seen)
    assert array.attrs["saectl"]["encoding"] == dtype
    mask = np.asarray(zarr.open_array(tmp_path / "mask.zarr", mode="r")[:])
    np.testing.assert_array_equal(mask, reasons())


def test_a_chunk_is_a_view_of_the_file_that_can_not_change_it(tmp_path: Path) -> None:
    x = written(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chunk = ActivationReader(tmp_path).chunk(0)
    maps = Path("/proc/self/maps").read_text().splitlines()
    ours = [line for line in maps if str(tmp_path / "acts.zarr" / "c.0.0") in line]
    start, end = (int(edge, 16) for edge in ours[0].split()[0].split("-"))
    assert start <= chunk.data_ptr() < end
    chunk.zero_()
    assert torch.equal(ActivationReader(tmp_path).chunk(0), x[:CHUNK])


def test_statistics_cover_the_kept_rows(tmp_path: Path) -> None:
    x = written(tmp_path, "float32")
    kept = x[torch.from_numpy(reasons() == 0)].double().numpy()
    stats = ActivationReader(tmp_path).stats()
    assert stats.count == len(kept)
    np.testing.assert_allclose(stats.mean, kept.mean(0), rtol=1e-13)
    np.testing.assert_allclose(stats.var, kept.var(0), rtol=1e-13)
    assert stats.mean_norm == pytest.approx(np.linalg.norm(kept, axis=1).mean(), rel=1e-13)


def test_a_reader_beside_a_writer_sees_committed_chunks_only(tmp_path: Path) -> None:
    x = rows()
    with ActivationWriter(tmp_path, N, D, CHUNK, "bfloat16") as writer:
        assert ActivationReader(tmp_path).n_rows == 0
        fill(writer, x, stop=2)
        reader = ActivationReader(tmp_path)
        assert (reader.n_rows, reader.n_chunks, reader.complete) == (2 * CHUNK, 2, False)
        with pytest.raises(StoreError, match="chunk 2 is not committed"):
            reader.chunk(2)
        with pytest.raises(StoreError, match="no statistics yet"):
            reader.stats()
        with pytest.raises(StoreError, match="incomplete"):
            writer.finish()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    first = ActivationWriter(tmp_path, N, D, CHUNK, "bfloat16")
    with pytest.raises(StoreError, match="another process is writing"):
        ActivationWriter(tmp_path, N, D, CHUNK, "bfloat16")
    first.close()
    ActivationWriter(tmp_path, N, D, CHUNK, "bfloat16").close()


def test_wrong_chunks_are_refused_and_leave_no_trace(tmp_path: Path) -> None:
    x = rows()
    nan = x.clone()
    nan[20, 1] = float("nan")
    with ActivationWriter(tmp_path, N, D, CHUNK, "bfloat16") as writer:
        fill(writer, x, stop=1)
        offers = [
            (0, x[:CHUNK], "chunk 1 of 4 is next"),
            (2, x[:CHUNK], "chunk 1 of 4 is next"),
            (1, x[: CHUNK - 1], "16 rows, got 15"),
            (1, x[:CHUNK, :-1], "must be"),
            (1, x[:CHUNK].float(), "stores bfloat16"),
            (1, nan[CHUNK : 2 * CHUNK], "rows 16 to 31 hold NaN or Inf"),
        ]
        for k, acts, message in offers:
            with pytest.raises(StoreError, match=message):
                writer.write(k, acts, np.zeros(len(acts), np.uint8))
        with pytest.raises(StoreError, match="reasons of shape"):
            writer.write(1, x[:CHUNK], np.zeros(CHUNK + 1, np.uint8))
        dropped = (np.arange(CHUNK) == 20 - CHUNK).astype(np.uint8)
        writer.write(1, nan[CHUNK : 2 * CHUNK], dropped)  # a NaN that is masked is none of ours
        assert writer.next_chunk == 2


def test_another_plan_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with ActivationWriter(tmp_path, N, D, CHUNK, "bfloat16", {"site": "a"}) as writer:
        fill(writer, rows(), stop=1)
    for plan in (
        (N + 1, D, CHUNK, "bfloat16", {"site": "a"}),
        (N, D + 1, CHUNK, "bfloat16", {"site": "a"}),
        (N, D, CHUNK + 1, "bfloat16", {"site": "a"}),
        (N, D, CHUNK, "float32", {"site": "a"}),
        (N, D, CHUNK, "bfloat16", {"site": "b"}),
    ):
        with pytest.raises(StoreError, match="written by another plan"):
            ActivationWriter(tmp_path, *plan)  # type: ignore[arg-type]


@pytest.mark.parametrize("left", [b"", Moments.of(torch.ones(3, D)).to_bytes()])
def test_statistics_are_computed_again_when_the_running_ones_are_lost(
    tmp_path: Path, left: bytes
) -> None:
    written(tmp_path / "whole")
    with ActivationWriter(tmp_path / "torn", N, D, CHUNK, "bfloat16", {"site": "mlp_out"}) as w:
        fill(w, rows(), stop=3)
    for path in (tmp_path / "torn").glob("running-*"):
        path.write_bytes(left)
    written(tmp_path / "torn")
    whole, torn = (tmp_path / name / "stats.safetensors" for name in ("whole", "torn"))
    assert whole.read_bytes() == torn.read_bytes()


def test_finishing_twice_changes_nothing(tmp_path: Path) -> None:
    written(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with ActivationWriter(tmp_path, N, D, CHUNK, "bfloat16", {"site": "mlp_out"}) as writer:
        assert writer.last_state == {"document": 3}
        summary = writer.finish()
    assert summary["kept"] == int((reasons() == 0).sum()) and summary["bytes"] == N * D * 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_verify_names_array_chunk_rows_and_file(tmp_path: Path) -> None:
    written(tmp_path)
    flip(tmp_path / "acts.zarr" / "c.1.0", 5)
    named = r"array acts\.zarr, chunk 1 \(rows 16 to 31\): .*c\.1\.0 does not match"
    with pytest.raises(StoreError, match=named):
        ActivationReader(tmp_path).verify()
    flip(tmp_path / "acts.zarr" / "c.1.0", 5)
    flip(tmp_path / "mask.zarr" / "c.3", 0)
    with pytest.raises(StoreError, match=r"mask\.zarr, chunk 3 \(rows 48 to 49\)"):
        ActivationReader(tmp_path).verify()


def test_a_cut_or_missing_chunk_file_is_an_error_and_no_crash(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "acts.zarr" / "c.1.0"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="holds 191 bytes, not 192"):
        ActivationReader(tmp_path).chunk(1)
    path.unlink()
    with pytest.raises(StoreError, match=r"can't map .*c\.1\.0"):
        ActivationReader(tmp_path).chunk(1)
    with pytest.raises(StoreError, match="committed chunks are gone"):
        ActivationWriter(tmp_path, N, D, CHUNK, "bfloat16", {"site": "mlp_out"})


def test_a_finished_array_whose_log_was_cut_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    written(tmp_path)
    log = tmp_path / "commits.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(StoreError, match="2 of 4 chunks: the log is damaged"):
        ActivationReader(tmp_path)
    written(tmp_path)  # a writer mends it
    assert ActivationReader(tmp_path).verify() > 0


def test_a_mask_that_drops_everything_is_an_error(tmp_path: Path) -> None:
    with ActivationWriter(tmp_path, 4, D, 4, "bfloat16") as writer:
        writer.write(0, rows()[:4], np.ones(4, np.uint8))
        with pytest.raises(StoreError, match="drops every row"):
            writer.finish()


def test_evicted_activations_are_made_anew_with_the_same_digest(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "cache" / "x-00000000")

    def run(expected_start: int) -> str:
        with claim(stage) as held, ActivationWriter(stage.path, N, D, CHUNK, "bfloat16") as writer:
            assert writer.next_chunk == expected_start
            assert stage.stats.exists() == (expected_start > 0)
            fill(writer, rows())
            summary = writer.finish()
            return record_done(held, writer.records(), summary, 0.0).sha256

    first = run(0)
    assert run(4) == first
    verify_done(stage)
    assert evict(stage, stage.activation_data) > N * D * 2
    assert state(stage).status is Status.EVICTED and stage.stats.exists()
    assert run(0) == first
    assert state(stage).status is Status.DONE
    assert ActivationReader(stage.path).verify() > 0
