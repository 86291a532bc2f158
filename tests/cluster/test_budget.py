"""A suite within a third of its activations' bytes: in waves, never more, and the same results."""

from __future__ import annotations

import os
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
    assert begun == [1] * 12, "a wave was captured twice"


def test_what_no_wave_can_hold_is_refused_before_anything_runs(saectl: Saectl) -> None:
    said = saectl("run", SUITE, "--set", "storage.budget=10MB", code=1).stderr
    assert "storage.budget is 10 MB" in said and "resid_post" in said and "alone takes" in said
    assert not list(saectl.store.glob("*/*/spec.json"))


def test_plan_tells_the_waves(saectl: Saectl) -> None:
    said = saectl("plan", SUITE, "--set", "storage.budget=70MB").stdout
    assert "3 waves" in said
