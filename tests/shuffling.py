"""Arrays whose rows tell their number, and readers that tell what they read, for tests of the order
in which training reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_cli.store.acts.array import ActivationReader, ArrayPlan, finish
from sae_cli.store.acts.encodings import Encoding
from sae_cli.store.acts.order import Order
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.acts.shuffle import ShuffledReader

N, CHUNK = 1000, 16
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


def numbered(folder: Path) -> Path:
    """An array of N rows, of which row r holds (r, -r); every seventh row and all of the EMPTY
    chunks are masked, and chunk 1 has no masked row."""
    r = torch.arange(N, dtype=torch.float32)
    rows = np.arange(N)
    masked = (rows % 7 == 0) & (rows // CHUNK != 1) | np.isin(rows // CHUNK, EMPTY)
    return write(folder, torch.stack([r, -r], dim=1), masked)


def stream(
    array: ActivationReader, start: int, n: int, seed: int = 0, pool: int = POOL, **how: Any
) -> list[int]:
    """The numbers of `n` rows of the order, from its row `start` on."""
    how = {"prefetch": False, "threads": 1, **how}
    with ShuffledReader(array, pool, seed, **how) as reader:
        return reader.batch(start, n)[:, 0].int().tolist()


def pools_of(order: Order) -> list[tuple[int, int]]:
    """Start and rows of the pools of the first epoch."""
    pool, found = order.at(0), []
    while pool.epoch == 0:
        found.append((pool.start, pool.rows))
        pool = order.after(pool)
    return found


def wait_for(what: Callable[[], bool]) -> None:
    """Until it is so; an error after long."""
    for _ in range(2000):
        if what():
            return
        time.sleep(0.005)
    raise AssertionError("it never came to be")
