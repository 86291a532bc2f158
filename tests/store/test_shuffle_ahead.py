"""What is read, and when: one pool now, the next beside it, and nothing that nobody will draw."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from shuffling import EMPTY, POOL, Watched, numbered, stream, wait_for

from sae_cli.errors import StoreError
from sae_cli.store.acts.array import ActivationReader
from sae_cli.store.acts.order import Order
from sae_cli.store.acts.shuffle import ShuffledReader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered(tmp_path_factory.mktemp("acts"))


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
