"""Training order: each kept row once an epoch, and the same from any position."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shuffling import POOL, numbered, stream, write

from sae_cli.errors import StoreError
from sae_cli.store.acts.array import ActivationReader, ArrayPlan
from sae_cli.store.acts.encodings import Encoding
from sae_cli.store.acts.order import Order
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.acts.shuffle import ShuffledReader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered(tmp_path_factory.mktemp("acts"))


@pytest.fixture(scope="module")
def array(folder: Path) -> ActivationReader:
    return ActivationReader(folder)


@pytest.mark.parametrize("pool", [1, 10, POOL, 10_000])
def test_every_epoch_visits_each_kept_row_exactly_once(array: ActivationReader, pool: int) -> None:
    kept = np.flatnonzero(array.keep()).tolist()
    n = len(kept)
    epochs = [stream(array, epoch * n, n, pool=pool) for epoch in range(3)]
    assert all(sorted(epoch) == kept for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != kept


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 2500), pool=st.integers(1, 1200), seed=st.integers(0, 2**32))
def test_batches_of_any_size_leave_no_gap_and_repeat_nothing(
    array: ActivationReader, size: int, pool: int, seed: int
) -> None:
    kept = np.flatnonzero(array.keep()).tolist()
    n = len(kept)
    with ShuffledReader(array, pool, seed) as reader:
        rows = [reader.batch(at, size)[:, 0].int() for at in range(0, 2 * n, size)]
    seen = torch.cat(rows).tolist()
    assert sorted(seen[:n]) == kept and sorted(seen[n : 2 * n]) == kept
    assert seen == stream(array, 0, len(seen), seed=seed, pool=pool)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("prefetch", [True, False])
def test_neither_threads_nor_reading_ahead_move_a_row(
    array: ActivationReader, threads: int, prefetch: bool
) -> None:
    whole = stream(array, 0, 2500)
    with ShuffledReader(array, POOL, 0, threads=threads, prefetch=prefetch) as reader:
        parts = torch.cat([reader.batch(at, 50) for at in range(0, 2500, 50)])
    assert parts[:, 0].int().tolist() == whole
    assert torch.equal(parts[:, 0], -parts[:, 1])


def test_a_restart_anywhere_reads_on_bit_for_bit(array: ActivationReader) -> None:
    whole = stream(array, 0, 2500)
    dice = np.random.default_rng(0)
    for at in dice.integers(0, 2400, 25).tolist():
        assert stream(array, at, 100) == whole[at : at + 100]


def test_jumping_about_while_reading_ahead_changes_nothing(array: ActivationReader) -> None:
    whole = stream(array, 0, 2500)
    dice = np.random.default_rng(1)
    with ShuffledReader(array, POOL, 0) as reader:
        for at in dice.integers(0, 2400, 50).tolist():
            assert reader.batch(at, 40)[:, 0].int().tolist() == whole[at : at + 40]


def test_several_readers_share_an_array(array: ActivationReader) -> None:
    wanted = {seed: stream(array, 0, 2000, seed=seed) for seed in range(3)}
    with (
        ShuffledReader(array, POOL, 0) as a,
        ShuffledReader(array, POOL, 1) as b,
        ShuffledReader(array, POOL, 2, threads=4) as c,
    ):
        readers, found = (a, b, c), {seed: list[int]() for seed in range(3)}

        def draw(seed: int) -> None:
            for at in range(0, 2000, 50):
                found[seed] += readers[seed].batch(at, 50)[:, 0].int().tolist()

        threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == wanted


def test_the_seed_decides_the_order(array: ActivationReader) -> None:
    assert stream(array, 0, 50, seed=0) == stream(array, 0, 50, seed=0)
    assert stream(array, 0, 50, seed=0) != stream(array, 0, 50, seed=1)


def test_the_order_is_pinned() -> None:
    """Old runs must resume in the order that they began with."""
    order = Order(np.array([3, 0, 2, 4, 1]), 5, 7)
    pools = [order.at(0), order.after(order.at(0)), order.at(10)]
    assert [pool.chunks for pool in pools] == [(2, 0, 1), (4, 3), (0, 4)]
    assert [order.slots(pool).tolist() for pool in pools] == [
        [0, 4, 3, 2, 1],
        [0, 2, 1, 4, 3],
        [2, 3, 1, 0],
    ]


def test_global_random_state_is_neither_read_nor_moved(array: ActivationReader) -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    first = stream(array, 0, 300)
    drawn = (np.random.random(), torch.rand(1).item())
    np.random.seed(0)
    torch.manual_seed(0)
    assert (np.random.random(), torch.rand(1).item()) == drawn
    assert stream(array, 0, 300) == first


@pytest.mark.parametrize("encoding", ["float32", "bfloat16", "float16", "int8"])
def test_rows_are_what_the_array_holds_as_float32(tmp_path: Path, encoding: Encoding) -> None:
    x = torch.randn(100, 130, generator=torch.Generator().manual_seed(0))
    masked = np.arange(100) % 3 == 0
    array = ActivationReader(write(tmp_path, x, masked, encoding))
    whole = torch.cat([array.chunk(k) for k in range(array.n_chunks)]).float()
    with ShuffledReader(array, 40, 0) as reader:
        got = reader.batch(0, reader.rows_per_epoch)
    assert got.dtype is torch.float32
    assert sorted(got.tolist()) == sorted(whole[~masked].tolist())


def test_an_array_of_one_chunk_is_one_pool(tmp_path: Path) -> None:
    rows = torch.arange(10.0)[:, None]
    array = ActivationReader(write(tmp_path, rows, np.arange(10) == 3))
    seen = stream(array, 0, 18, pool=4, prefetch=True)
    kept = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert sorted(seen[:9]) == sorted(seen[9:]) == kept and seen[:9] != seen[9:]


def test_a_mask_that_contradicts_the_log_is_refused(folder: Path) -> None:
    array = ActivationReader(folder)
    kept = array.kept.copy()
    kept[3] -= 1
    array.kept = kept
    with (
        ShuffledReader(array, 10_000, 0) as reader,
        pytest.raises(StoreError, match="chunk 3: the mask keeps"),
    ):
        reader.batch(0, 1)


def test_an_unfinished_array_has_no_order_yet(tmp_path: Path) -> None:
    with Recorder(tmp_path, ArrayPlan(20, 3, 8, 8, "float32")) as recorder:
        recorder.put(0, torch.zeros(8, 3), np.zeros(8, np.uint8))
        recorder.drain()
    with pytest.raises(StoreError, match="8 of 20 rows"):
        ShuffledReader(ActivationReader(tmp_path), 8, 0)
