"""Training order: each kept row once an epoch, well mixed, and the same from any position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_cli.errors import StoreError
from sae_cli.store.activations import ActivationReader, ActivationWriter
from sae_cli.store.shuffle import ShuffledReader

N, CHUNK = 1000, 16
POOL = 100


@pytest.fixture(scope="module")
def array(tmp_path_factory: pytest.TempPathFactory) -> ActivationReader:
    """Row r holds (r, -r); every seventh row and all of chunks 0, 5 and 6 are masked."""
    folder = tmp_path_factory.mktemp("acts")
    r = torch.arange(N, dtype=torch.float32)
    acts = torch.stack([r, -r], dim=1)
    chunk = np.arange(N) // CHUNK
    masked = (np.arange(N) % 7 == 0) | np.isin(chunk, [0, 5, 6])
    with ActivationWriter(folder, N, 2, CHUNK, "float32") as writer:
        for k in range(writer.n_chunks):
            part = slice(k * CHUNK, k * CHUNK + writer.rows_in(k))
            writer.write(k, acts[part], masked[part].astype(np.uint8))
        writer.finish()
    return ActivationReader(folder)


def stream(
    array: ActivationReader, start: int, n: int, seed: int = 0, pool: int = POOL
) -> list[int]:
    with ShuffledReader(array, pool, seed, prefetch=False) as reader:
        return reader.batch(start, n)[:, 0].int().tolist()


@pytest.mark.parametrize("pool", [1, 10, POOL, 10_000])
def test_every_epoch_visits_each_kept_row_exactly_once(array: ActivationReader, pool: int) -> None:
    kept = np.flatnonzero(array.keep()).tolist()
    n = len(kept)
    epochs = [stream(array, epoch * n, n, pool=pool) for epoch in range(3)]
    assert all(sorted(epoch) == kept for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != kept


@pytest.mark.parametrize("size", [1, 7, 64, 333, 2000])
def test_batches_of_any_size_cut_the_same_stream(array: ActivationReader, size: int) -> None:
    n = 2100  # crosses two ends of an epoch
    whole = stream(array, 0, n)
    with ShuffledReader(array, POOL, 0) as reader:
        parts = [reader.batch(at, min(size, n - at)) for at in range(0, n, size)]
    assert torch.cat(parts)[:, 0].int().tolist() == whole
    assert torch.equal(torch.cat(parts)[:, 0], -torch.cat(parts)[:, 1])


def test_a_restart_anywhere_reads_on_bit_for_bit(array: ActivationReader) -> None:
    whole = stream(array, 0, 2500)
    dice = np.random.default_rng(0)
    for at in dice.integers(0, 2400, 25).tolist():
        assert stream(array, at, 100) == whole[at : at + 100]


def test_jumping_about_with_prefetch_changes_nothing(array: ActivationReader) -> None:
    whole = stream(array, 0, 2500)
    dice = np.random.default_rng(1)
    with ShuffledReader(array, POOL, 0, prefetch=True) as reader:
        for at in dice.integers(0, 2400, 50).tolist():
            assert reader.batch(at, 40)[:, 0].int().tolist() == whole[at : at + 40]


def test_the_seed_decides_the_order(array: ActivationReader) -> None:
    assert stream(array, 0, 50, seed=0) == stream(array, 0, 50, seed=0)
    assert stream(array, 0, 50, seed=0) != stream(array, 0, 50, seed=1)


def test_the_order_is_pinned(array: ActivationReader) -> None:
    """Old runs must resume in the order that they began with."""
    assert stream(array, 0, 6, seed=5) == [779, 468, 346, 699, 341, 470]


def test_neighbours_in_the_stream_are_strangers_on_disk(array: ActivationReader) -> None:
    chunks = np.array(stream(array, 0, 3000)) // CHUNK
    assert abs(np.corrcoef(chunks[:-1], chunks[1:])[0, 1]) < 0.15
    # A pool holds about seven chunks: neighbours share one about that often, not nearly always.
    assert np.mean(chunks[:-1] == chunks[1:]) < 0.25
    unshuffled = np.flatnonzero(array.keep()) // CHUNK
    assert np.mean(unshuffled[:-1] == unshuffled[1:]) > 0.9


def test_pools_hold_about_what_was_asked_for(array: ActivationReader) -> None:
    with ShuffledReader(array, POOL, 0, prefetch=False) as reader:
        plan = reader._plan(0)
        sizes = np.diff([*plan.starts, reader.rows_per_epoch])
    assert sizes.min() > POOL - 2 * CHUNK and sizes.max() < POOL + 2 * CHUNK


def test_global_random_state_is_neither_read_nor_moved(array: ActivationReader) -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    first = stream(array, 0, 300)
    drawn = (np.random.random(), torch.rand(1).item())
    np.random.seed(0)
    torch.manual_seed(0)
    assert (np.random.random(), torch.rand(1).item()) == drawn
    assert stream(array, 0, 300) == first


def test_bfloat16_rows_come_out_as_float32(tmp_path: Path) -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with ActivationWriter(tmp_path, 20, 3, 8, "bfloat16") as writer:
        for k in range(3):
            part = x[k * 8 : k * 8 + 8]
            writer.write(k, part, np.zeros(len(part), np.uint8))
        writer.finish()
    with ShuffledReader(ActivationReader(tmp_path), 8, 0) as reader:
        got = reader.batch(0, 20)
    assert got.dtype is torch.float32
    assert sorted(got.tolist()) == sorted(x.float().tolist())


def test_an_unfinished_array_has_no_order_yet(tmp_path: Path) -> None:
    with ActivationWriter(tmp_path, 20, 3, 8, "float32") as writer:
        writer.write(0, torch.zeros(8, 3), np.zeros(8, np.uint8))
    with pytest.raises(StoreError, match="8 of 20 rows"):
        ShuffledReader(ActivationReader(tmp_path), 8, 0)
