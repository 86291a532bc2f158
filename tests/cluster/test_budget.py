"""A suite within a third of its activations' bytes: in waves, never more, and the same results."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from realcommand import Disk, Saectl
from suiterun import SUITE


def activations(store: Path) -> int:
    """Bytes of activations that are on disk."""
    total = 0
    for folder in store.glob("cache/*/activations.zarr"):
        for place, _, names in os.walk(folder):  # passes over what is freed meanwhile
            for name in names:
                with suppress(FileNotFoundError):
                    total += (Path(place) / name).stat().st_size
    return total


@pytest.mark.slow
def test_a_third_of_the_bytes_is_never_exceeded_and_nothing_else_changes(
    saectl: Saectl, suite: Disk, processes: Any
) -> None:
    budget = activations(suite.root) // 3
    words = ("run", SUITE, "--set", f"storage.budget={budget}")
    peak, killed = 0, False
    while True:
        run = saectl.start(*words)
        processes.append(run)
        while run.poll() is None:
            peak = max(peak, activations(saectl.store))
            freed = list(saectl.store.glob("cache/*/evicted.json"))
            if freed and list(saectl.store.glob("train/*/claim")) and not killed:
                run.send_signal(signal.SIGKILL)  # in the second wave, or later
                killed = True
        said = run.communicate(timeout=600)[0]
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, said
    assert killed and 0 < peak <= budget, (peak, budget)
    assert activations(saectl.store) == 0, "the last wave is freed too"
    there = Disk(saectl.store)
    for kind in ("train", "eval", "release"):
        assert there.artefacts(kind) == suite.artefacts(kind), kind
    saectl("status", "--check")
    rows = saectl.sweep("plan", SUITE)["stages"]
    assert {row["action"] for row in rows} == {"skip"}
    begun = [(stage / "log.txt").read_text().count(": 0 of") for stage in there.stages("cache")]
    assert begun == [1] * 4, "a wave was captured twice"


def test_what_no_wave_can_hold_is_refused_before_anything_runs(saectl: Saectl) -> None:
    said = saectl("run", SUITE, "--set", "storage.budget=10MB", code=1).stderr
    assert "storage.budget is 10 MB" in said and "resid_post" in said and "alone takes" in said
    assert not list(saectl.store.glob("*/*/spec.json"))


def test_plan_tells_the_waves(saectl: Saectl) -> None:
    said = saectl("plan", SUITE, "--set", "storage.budget=40MB").stdout
    assert "2 waves" in said


BUDGET = ("--set", "storage.budget=3MB")
"""Room for one of the small sweep's two arrays."""
BROKEN = """\
name: broken
model: tiny
data: {tokens: 16_384, heldout_tokens: 4096, context: 64}
cache: {batch_tokens: 2048, chunk_bytes: 524_288}
train: {width: 64, num_tokens: 20_480, batch_size: 512, shuffle_tokens: 4096}
matrix:
  include:
    - {layer: 0, site: mlp_out, lr: 1e39}
    - {layer: 1, site: mlp_out}
"""


def captures(store: Path) -> list[int]:
    """How often each of the arrays was begun."""
    return [p.read_text().count(": 0 of") for p in sorted(store.glob("cache/*/log.txt"))]


@pytest.mark.slow
def test_two_drivers_within_a_budget_do_every_stage_once(
    saectl: Saectl, small: Path, processes: Any
) -> None:
    processes += [saectl.start("run", small, *BUDGET), saectl.start("run", small, *BUDGET)]
    peak = 0
    while any(process.poll() is None for process in processes):
        peak = max(peak, activations(saectl.store))
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert captures(saectl.store) == [1, 1], said
    assert 0 < peak <= 3_000_000


@pytest.mark.slow
def test_what_is_forced_is_done_again_by_jobs_within_a_budget(
    saectl: Saectl, small: Path, disk: Any
) -> None:
    saectl("train", small, *BUDGET)
    before = disk(saectl.store).artefacts("train")
    saectl("train", small, *BUDGET, "--force", "--jobs", "2")
    assert captures(saectl.store) == [1, 1]  # their logs began anew with them
    assert disk(saectl.store).artefacts("train") == before
    assert activations(saectl.store) == 0
    record = json.loads((saectl.store / "runs/small/sweep.json").read_text())
    assert "memory" not in record, "a worker's limits are not the sweep's"


@pytest.mark.slow
def test_a_failed_training_keeps_no_wave_from_the_rest(saectl: Saectl, tmp_path: Path) -> None:
    spec = tmp_path / "broken.yaml"
    spec.write_text(BROKEN)
    said = saectl("run", spec, *BUDGET, "--keep-going", code=1)
    assert re.search(r"error: train/tiny.L0\S+ failed: .* is (not finite|nan|inf)", said.stderr)
    assert "release/broken" in said.stderr and "blocked" in said.stderr
    assert list(saectl.store.glob("eval/tiny.L1*/done.json"))
    assert not list(saectl.store.glob("eval/tiny.L0*/done.json"))


def test_an_eviction_that_was_killed_is_finished(saectl: Saectl, small: Path) -> None:
    only = ("--set", "matrix.site=[mlp_out]", "--set", "matrix.sae=[{arch: topk, k: 8}]")
    saectl("train", small, *only)
    (array,) = saectl.store.glob("cache/*")
    data = ["commits.jsonl", "commits", "activations.zarr"]
    (array / "evicted.json").write_text(json.dumps({"paths": data, "evicted_at": 0.0}))
    assert activations(saectl.store) > 0
    assert "freed" in saectl("gc", small, *only, "--yes").stdout
    assert activations(saectl.store) == 0
