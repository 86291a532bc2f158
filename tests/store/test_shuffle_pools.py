"""How well pools mix, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shuffling import CHUNK, POOL, numbered, pools_of, write

from sae_cli.store.acts.array import ActivationReader
from sae_cli.store.acts.order import Order
from sae_cli.store.acts.shuffle import ShuffledReader


@pytest.fixture(scope="module")
def array(tmp_path_factory: pytest.TempPathFactory) -> ActivationReader:
    return ActivationReader(numbered(tmp_path_factory.mktemp("acts")))


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


def test_int8_pools_take_about_half_the_memory_of_bfloat16(tmp_path: Path) -> None:
    x = torch.randn(200, 128)
    sizes = {}
    for encoding in ("bfloat16", "int8"):
        array = ActivationReader(write(tmp_path / encoding, x, encoding=encoding))
        with ShuffledReader(array, 100, 0) as reader:
            sizes[encoding] = reader.nbytes
    assert sizes["int8"] < 0.52 * sizes["bfloat16"]
