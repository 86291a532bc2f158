"""Which rows a batch is made of: with and without the rows that are reserved for calibration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from shuffling import POOL, N, numbered, write

from sae_cli.errors import StoreError
from sae_cli.stages import grid_order
from sae_cli.stages.grid_feed import Feed
from sae_cli.stages.grid_order import Course
from sae_cli.store.acts.array import ActivationReader
from sae_cli.store.acts.shuffle import ShuffledReader

SEED = 3


@pytest.fixture(scope="module")
def array(tmp_path_factory: pytest.TempPathFactory) -> ActivationReader:
    """Rows that tell their number (`shuffling.numbered`)."""
    return ActivationReader(numbered(tmp_path_factory.mktemp("array")))


def numbers(array: ActivationReader, course: Course, step: int, n: int, *, reserving: bool) -> list:
    """Numbers of the rows of a stream, drawn in batches of `step`."""
    found: list[int] = []
    with ShuffledReader(array, POOL, SEED) as data:
        feed = Feed(data)
        for position in range(0, n, step):
            span = course.span(position, min(step, n - position), reserving=reserving)
            feed.forget(span.low)
            found += feed.batch(span)[:, 0].int().tolist()
    return found


def kept(array: ActivationReader) -> list[int]:
    return np.flatnonzero(array.keep()).tolist()


def test_reserved_rows_are_the_last_and_one_in_sixteen_of_a_small_array(array):
    course = Course(array, POOL, SEED)
    assert course.reserved == len(kept(array)) // 16
    rows = [int(r) for batch in course.calibration(7) for r in batch[:, 0]]
    assert rows == kept(array)[-course.reserved :]
    assert {len(batch) for batch in course.calibration(7)} <= set(range(1, 8))


def test_of_a_large_array_the_reserved_rows_are_a_fixed_number(array, monkeypatch):
    monkeypatch.setattr(grid_order, "RESERVED", 5)
    course = Course(array, POOL, SEED)
    assert [int(r) for b in course.calibration(100) for r in b[:, 0]] == kept(array)[-5:]


@pytest.mark.parametrize("step", [1, 9, 130])
def test_a_reserving_stream_is_the_whole_one_without_the_reserved_rows(array, step):
    course = Course(array, POOL, SEED)
    total = len(kept(array))
    whole = numbers(array, course, 64, 2 * total, reserving=False)
    reserved = set(kept(array)[-course.reserved :])
    expected = [r for r in whole if r not in reserved]
    assert len(expected) == 2 * (total - course.reserved)
    assert numbers(array, course, step, len(expected), reserving=True) == expected


def test_it_is_known_at_any_position_without_the_past(array):
    course = Course(array, POOL, SEED)
    n = 2 * (len(kept(array)) - course.reserved)
    stream = numbers(array, course, 50, n, reserving=True)
    for position in (n - 40, 3, n // 2 - 20):  # the last crosses into the second epoch
        with ShuffledReader(array, POOL, SEED) as data:
            fresh = Course(array, POOL, SEED)
            rows = Feed(data).batch(fresh.span(position, 40, reserving=True))
        assert rows[:, 0].int().tolist() == stream[position : position + 40]


def test_a_row_is_known_by_its_position(array):
    course = Course(array, POOL, SEED)
    stream = numbers(array, course, 64, len(kept(array)) + 10, reserving=False)
    for position in (0, 1, 99, 500, len(stream) - 1):
        row = stream[position]
        assert course.row(position) == row
    assert max(stream) < N


def test_batches_of_several_sizes_are_cut_from_rows_that_are_fetched_once(array):
    fetched: list[tuple[int, int]] = []

    class Counting(ShuffledReader):
        def batch(self, position: int, n: int) -> torch.Tensor:
            fetched.append((position, n))
            return super().batch(position, n)

    course = Course(array, POOL, SEED)
    with Counting(array, POOL, SEED) as data:
        feed = Feed(data)
        small, large = [], []
        for start in range(0, 600, 60):
            spans = [course.span(start + i, 20, reserving=False) for i in (0, 20, 40)]
            wide = course.span(start, 60, reserving=False)
            feed.forget(start)
            small.append(feed.batch(spans[0]))
            large.append(feed.batch(wide))
            small += [feed.batch(span) for span in spans[1:]]
    assert torch.equal(torch.cat(small), torch.cat(large))
    assert sum(n for _, n in fetched) == 600
    assert [p for p, _ in fetched] == np.cumsum([0, *(n for _, n in fetched[:-1])]).tolist()


def test_an_array_of_one_row_has_none_to_reserve(tmp_path):
    array = ActivationReader(write(tmp_path, torch.ones(1, 2)))
    course = Course(array, POOL, SEED)
    assert course.span(0, 3, reserving=False).high == 3
    with pytest.raises(StoreError, match="none is left"):
        course.span(0, 1, reserving=True)
