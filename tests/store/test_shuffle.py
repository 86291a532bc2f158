"""Training order: each kept row once an epoch, well mixed, and the same from any position."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_cli.errors import StoreError
from sae_cli.store.activations import ActivationReader, ArrayPlan, finish
from sae_cli.store.encodings import Encoding
from sae_cli.store.order import Order
from sae_cli.store.recorder import Recorder
from sae_cli.store.shuffle import ShuffledReader

N, CHUNK, SHARD = 1000, 16, 64
POOL = 100
EMPTY = [0, 5, 6]


class Watched(ActivationReader):
    """Notes which chunks are read; `before(k)` is called before each."""

    def __init__(self, dir: Path, before: Callable[[int], object] = lambda k: None) -> None:
        super().__init__(dir)
        self.read: list[int] = []
        self.masks: list[int | None] = []
        self._before = before

    def raw(self, k: int) -> dict[str, Any]:
        self.read.append(k)
        self._before(k)
        return super().raw(k)

    def reasons(self, k: int | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        self.masks.append(k)
        return super().reasons(k)


def write(
    folder: Path,
    acts: torch.Tensor,
    masked: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
    encoding: Encoding = "float32",
    chunk: int = CHUNK,
) -> Path:
    """A finished array in `folder`."""
    reasons = np.zeros(len(acts), np.uint8) if masked is None else masked.astype(np.uint8)
    plan = ArrayPlan(len(acts), acts.shape[1], chunk, 4 * chunk, encoding)
    with Recorder(folder, plan) as recorder:
        recorder.put(0, acts, reasons)
        recorder.drain()
    finish(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Row r holds (r, -r); every seventh row and all of the EMPTY chunks are masked, and chunk 1
    has no masked row."""
    r = torch.arange(N, dtype=torch.float32)
    rows = np.arange(N)
    masked = (rows % 7 == 0) & (rows // CHUNK != 1) | np.isin(rows // CHUNK, EMPTY)
    return write(tmp_path_factory.mktemp("acts"), torch.stack([r, -r], dim=1), masked)


@pytest.fixture(scope="module")
def array(folder: Path) -> ActivationReader:
    return ActivationReader(folder)


def stream(
    array: ActivationReader, start: int, n: int, seed: int = 0, pool: int = POOL, **how: Any
) -> list[int]:
    how = {"prefetch": False, "threads": 1, **how}
    with ShuffledReader(array, pool, seed, **how) as reader:
        return reader.batch(start, n)[:, 0].int().tolist()


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


@pytest.mark.parametrize("epoch", [0, 1, 10**6])
def test_starting_far_into_the_stream_reads_one_pool_only(folder: Path, epoch: int) -> None:
    watched = Watched(folder)
    with ShuffledReader(watched, POOL, 0, prefetch=False) as reader:
        order = Order(watched.kept, POOL, 0)
        assert watched.read == [] and watched.masks == []
        pool = order.at(epoch * reader.rows_per_epoch)
        while 1 not in pool.chunks:
            pool = order.after(pool)
        reader.batch(pool.start + pool.rows // 2, 5)
    assert sorted(watched.read) == sorted(set(pool.chunks) - set(EMPTY))
    assert len(watched.read) < 12 < watched.n_chunks
    assert 1 not in watched.masks  # all rows of chunk 1 count: its mask is not needed
    assert set(watched.masks) <= set(watched.read)


def test_the_next_pool_is_read_while_this_one_is_drawn_from(folder: Path) -> None:
    watched = Watched(folder)
    order = Order(watched.kept, POOL, 0)
    first, second = order.at(0), order.after(order.at(0))
    due = (set(first.chunks) | set(second.chunks)) - set(EMPTY)
    with ShuffledReader(watched, POOL, 0) as reader:
        reader.batch(0, 1)
        wait_for(lambda: len(watched.read) == len(due))
        reader.batch(first.rows - 1, 1)
        assert set(watched.read) == due


def test_reading_ahead_goes_on_into_the_next_epoch_and_stops_at_the_end(folder: Path) -> None:
    watched = Watched(folder)
    order = Order(watched.kept, POOL, 0)
    n = order.rows_per_epoch
    last, following = order.at(n - 1), order.at(n)
    assert (last.epoch, following.epoch) == (0, 1)
    for end, due in ((n, {*last.chunks}), (n + 1, {*last.chunks, *following.chunks})):
        watched.read.clear()
        due -= set(EMPTY)
        with ShuffledReader(watched, POOL, 0, end=end) as reader:
            reader.batch(n - 1, 1)
            wait_for(lambda due=due: set(watched.read) == due)
            time.sleep(0.02)
        assert set(watched.read) == due


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


def test_neighbours_in_the_stream_come_from_unrelated_documents(tmp_path: Path) -> None:
    """Documents of 50 to 500 rows lie one after another; a chunk holds a few, a pool 32 chunks."""
    n, chunk, pool, batch = 40_000, 256, 8192, 1024
    dice = np.random.default_rng(0)
    document = np.repeat(np.arange(400), dice.integers(50, 500, 400))[:n]
    rows = torch.from_numpy(document)[:, None].float()
    array = ActivationReader(write(tmp_path, rows, chunk=chunk))
    with ShuffledReader(array, pool, 0) as reader:
        seen = reader.batch(0, n)[:, 0].long().numpy()
    assert abs(lag(document)) > 0.99
    # Within a pool rows are exchangeable, so a lag-1 correlation of r in a pool of m rows has a
    # deviation of 1 / sqrt(m): five of them.
    pools = pools_of(Order(array.kept, pool, 0))
    for low, rows_in in pools:
        assert abs(lag(seen[low : low + rows_in])) < 5 / np.sqrt(rows_in)
    # What pools leave: their means differ a little, as random chunks' do.
    assert abs(lag(seen)) < 0.1
    # Same-document neighbours: uniform sampling gives sum of p^2; a pool holds 32 of 157 chunks,
    # so its own documents meet about 157 / 32 times as often, and no more.
    uniform = float((np.bincount(document) / n) ** 2 @ np.ones(document.max() + 1))
    same = np.mean(seen[1:] == seen[:-1])
    assert same < 2 * uniform * n / pool
    # The mean of a batch is as near to its pool's as that of rows drawn at random (finite sample).
    spread = document.std() * np.sqrt((1 - batch / pool) / batch)
    for low, rows_in in pools:
        drawn = seen[low : low + rows_in]
        means = [drawn[at : at + batch].mean() for at in range(0, rows_in - batch, batch)]
        assert np.all(np.abs(np.array(means) - drawn.mean()) < 5 * spread)


def lag(values: np.ndarray[Any, Any]) -> float:
    """Correlation of neighbours."""
    return float(np.corrcoef(values[:-1], values[1:])[0, 1])


def pools_of(order: Order) -> list[tuple[int, int]]:
    """Start and rows of the pools of the first epoch."""
    pool, found = order.at(0), []
    while pool.epoch == 0:
        found.append((pool.start, pool.rows))
        pool = order.after(pool)
    return found


def test_pools_hold_about_what_was_asked_for(array: ActivationReader) -> None:
    order = Order(array.kept, POOL, 0)
    sizes = [rows for _, rows in pools_of(order)]
    assert sum(sizes) == order.rows_per_epoch
    assert min(sizes) > POOL - 2 * CHUNK and max(sizes) < POOL + 2 * CHUNK
    assert max(sizes) <= order.most


def test_memory_is_two_pools_however_long_the_array(tmp_path: Path) -> None:
    sizes = []
    for n in (2_000, 20_000):
        array = ActivationReader(write(tmp_path / str(n), torch.ones(n, 8), encoding="bfloat16"))
        with ShuffledReader(array, 512, 0) as reader:
            reader.batch(0, 100)
            sizes.append(reader.nbytes)
    row = 2 * 8
    assert all(2 * 512 * row <= size <= 2 * (512 + 2 * CHUNK) * row * 1.1 for size in sizes)


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


def test_int8_pools_take_about_half_the_memory_of_bfloat16(tmp_path: Path) -> None:
    x = torch.randn(200, 128)
    sizes = {}
    for encoding in ("bfloat16", "int8"):
        array = ActivationReader(write(tmp_path / encoding, x, encoding=encoding))
        with ShuffledReader(array, 100, 0) as reader:
            sizes[encoding] = reader.nbytes
    assert sizes["int8"] < 0.52 * sizes["bfloat16"]


def test_an_array_of_one_chunk_is_one_pool(tmp_path: Path) -> None:
    rows = torch.arange(10.0)[:, None]
    array = ActivationReader(write(tmp_path, rows, np.arange(10) == 3))
    seen = stream(array, 0, 18, pool=4, prefetch=True)
    kept = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert sorted(seen[:9]) == sorted(seen[9:]) == kept and seen[:9] != seen[9:]


def test_an_unreadable_chunk_is_named_when_its_rows_are_due(folder: Path) -> None:
    order = Order(ActivationReader(folder).kept, POOL, 0)
    first, second = order.at(0), order.after(order.at(0))
    bad = next(k for k in second.chunks if k not in EMPTY)
    broken = True

    def fail(k: int) -> None:
        if k == bad and broken:
            raise StoreError("the disk is gone", hint="fetch it back")

    watched = Watched(folder, fail)
    with ShuffledReader(watched, POOL, 0) as reader:
        reader.batch(0, first.rows)  # reading ahead failed, and is nobody's business yet
        for _ in range(2):
            with pytest.raises(StoreError, match=f"chunk {bad}: the disk is gone") as caught:
                reader.batch(second.start, 1)
            assert caught.value.hint == "fetch it back"
        broken = False
        assert reader.batch(second.start, 50)[:, 0].int().tolist() == stream(
            ActivationReader(folder), second.start, 50
        )


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


def test_closing_waits_for_no_chunk_that_is_not_begun_and_leaves_no_thread(folder: Path) -> None:
    begun, go = threading.Semaphore(0), threading.Event()
    order = Order(ActivationReader(folder).kept, 400, 0)
    first, second = order.at(0), order.after(order.at(0))

    def hold(k: int) -> None:
        if k in second.chunks:
            begun.release()
            go.wait()

    watched = Watched(folder, hold)
    before = threading.active_count()
    with ShuffledReader(watched, 400, 0, threads=2) as reader:
        reader.batch(0, first.rows)
        begun.acquire()
        begun.acquire()  # both threads are in the middle of a chunk
        read = len(watched.read)
        threading.Timer(0.05, go.set).start()
    assert len(watched.read) == read < len({*first.chunks, *second.chunks} - set(EMPTY))
    wait_for(lambda: threading.active_count() <= before)


def test_an_unfinished_array_has_no_order_yet(tmp_path: Path) -> None:
    with Recorder(tmp_path, ArrayPlan(20, 3, 8, 8, "float32")) as recorder:
        recorder.put(0, torch.zeros(8, 3), np.zeros(8, np.uint8))
        recorder.drain()
    with pytest.raises(StoreError, match="8 of 20 rows"):
        ShuffledReader(ActivationReader(tmp_path), 8, 0)


def wait_for(what: Callable[[], bool]) -> None:
    """Until it is so; an error after long."""
    for _ in range(2000):
        if what():
            return
        time.sleep(0.005)
    raise AssertionError("it never came to be")
