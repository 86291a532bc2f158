"""What a capture holds at any moment does not grow with the number of tokens.

Peak RSS can't be told to the byte, but what it is made of can be counted: tensors, open files and
threads when a part ends, and the bytes that wait for a slow disk while the forward goes on.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_cli.spec.stages import CacheSpec, DataSpec, MaskSpec, ModelSpec
from sae_cli.spec.work import CacheWork, TokensWork
from sae_cli.stages import cache
from sae_cli.stages.task import Dep, Task
from sae_cli.store.acts.strands import Lanes
from sae_cli.store.blocks import BlockWriter

CONTEXT, BATCH, PART, PARTS = 64, 1024, 16_384, 8
ROW = 4 * 64
"""Bytes of a row of the tiny model, in float32."""
LIMIT, THREADS = 8 * BATCH * ROW, 2


@dataclass(frozen=True)
class Held:
    """What this process holds."""

    tensors: int
    nbytes: int
    files: int
    threads: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        found = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
        sizes = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in found}
        files = len(os.listdir("/proc/self/fd"))
        return cls(len(found), sum(sizes.values()), files, threading.active_count())


class Probe:
    """Looks at the process when the disk is so far behind that the forward must wait, and when a
    part has ended. Until then nothing is synced: the disk is as slow as can be."""

    def __init__(self) -> None:
        self.behind: list[Held] = []
        self.ends: list[Held] = []
        self._sync: Any = os.fsync
        self._gate = threading.Event()

    def fsync(self, handle: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            assert self._gate.wait(60), "the forward never waited for the disk"
        self._sync(handle)

    def lanes(self) -> Lanes:
        probe = self

        class Watched(Lanes):
            def reserve(self, size: int) -> None:
                if self._free <= 0 and not probe._gate.is_set():
                    probe.behind.append(Held.now())
                    probe._gate.set()
                super().reserve(size)

        return Watched(THREADS, LIMIT)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._gate.clear()
        yield
        if name[0].isdigit():
            self.ends.append(Held.now())

    def begin(self, label: str, total: int, done: int, unit: str) -> None:
        assert (total, done, unit) == (PARTS * PART, 0, "tokens")

    def at(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        assert 0 < done <= PARTS * PART

    def note(self, text: str) -> None:
        raise AssertionError(text)


@pytest.fixture
def task(tmp_path: Path) -> Callable[[Probe], Task]:
    """task(probe): a capture of eight parts."""
    model = ModelSpec(builtin="tiny", dtype="float32")
    n = PARTS * PART // CONTEXT
    dice = np.random.default_rng(0)
    with BlockWriter(tmp_path / "tokens", CONTEXT, {"train": n, "heldout": 1}, n) as writer:
        for split, rows in (("train", n), ("heldout", 1)):
            tokens = dice.integers(5, 500, (rows, CONTEXT)).astype(np.int32)
            writer.write(
                split, tokens, tokens.astype(np.int64), tokens, np.zeros_like(tokens, "u1")
            )
    data = DataSpec(tokens=PARTS * PART, heldout_tokens=CONTEXT, context=CONTEXT)
    tokens = Dep(TokensWork(model=model, data=data), tmp_path / "tokens", "0" * 8, "x")
    spec = CacheSpec(
        dtype="float32",
        batch_tokens=BATCH,
        chunk_bytes=BATCH // 2 * (ROW + 1),
        shard_bytes=2 * BATCH * (ROW + 1),
        part_tokens=PART,
    )
    work = CacheWork(model=model, layer=1, site="mlp_out", cache=spec, mask=MaskSpec())

    def make(probe: Probe) -> Task:
        (tmp_path / "out").mkdir()
        return Task(
            name="cache/x",
            key="1" * 8,
            slug="x",
            work=work,
            out=tmp_path / "out",
            deps={"tokens": tokens},
            report=probe,
            device="cpu",
            stop=lambda: False,
            finish=lambda files, summary: None,
            part=probe.part,
            whole=nullcontext,
            wait=lambda _: pytest.fail("nobody else is here"),
        )

    return make


@pytest.fixture
def newcomers() -> Iterator[None]:
    """Only what is made from now on is looked at: all else there is would take a while."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_a_capture_of_eight_parts_holds_no_more_than_one_of_one(
    task: Callable[[Probe], Task], newcomers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Probe()
    monkeypatch.setattr(os, "fsync", probe.fsync)
    monkeypatch.setattr(cache, "Lanes", probe.lanes)
    cache.run([task(probe)])

    assert len(probe.ends) == len(probe.behind) == PARTS
    first, batch = probe.ends[0], BATCH * ROW
    for end in probe.ends:
        assert (end.files, end.threads) == (first.files, first.threads)
        # a thread may still hold the chunk that it stored last, and that the pass it is from
        assert abs(end.tensors - first.tensors) <= 4 * THREADS
        assert abs(end.nbytes - first.nbytes) <= THREADS * batch
    for held in probe.behind:
        # what is reserved for, and the passes at either end of it, and those that threads are at
        assert held.nbytes - first.nbytes + THREADS * batch >= LIMIT
        assert held.nbytes - first.nbytes <= LIMIT + (2 + THREADS) * batch
