"""Jobs beside each other on one machine: the same results, whatever is killed meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from realcommand import Disk, Saectl
from suiterun import SUITE, same


@pytest.mark.slow
def test_two_drivers_of_a_suite_share_it_and_a_killed_job_is_begun_again(
    saectl: Saectl, suite: Disk, processes: Any, until: Any
) -> None:
    """Every stage is done exactly once; the bits are those of one process."""
    words = ("run", SUITE, "--jobs", "2")
    processes += [saectl.start(*words), saectl.start(*words)]

    def claims() -> list[Path]:
        return list(saectl.store.glob("train/*/claim"))

    until(claims)
    victim = json.loads(claims()[0].read_text() or "{}").get("pid")
    if victim:
        os.kill(victim, signal.SIGKILL)
    said = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    there = Disk(saectl.store)
    same(there, suite)
    done = [
        line.split()[1]
        for log in saectl.store.glob("runs/suite/jobs/*.txt")
        for line in log.read_text().splitlines()
        if line.startswith("done ")
    ]
    assert sorted(done) == sorted(there.done()), "a stage was done twice, or by nobody"


@pytest.mark.slow
def test_a_stop_reaches_every_job_and_the_next_run_goes_on(
    saectl: Saectl, small: Path, processes: Any, until: Any
) -> None:
    run = saectl.start("run", small, "--jobs", "2")
    processes.append(run)
    until(lambda: list(saectl.store.glob("train/*/claim")))
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 130 and "Traceback" not in said, said
    assert not list(saectl.store.glob("*/*/claim*")), "somebody stayed"
    saectl("run", small, "--jobs", "2")
    saectl("status", "--check")


def test_a_failure_is_told_with_its_cause_and_its_log(saectl: Saectl, small: Path) -> None:
    said = saectl(
        "train", small, "--jobs", "2", "--keep-going", "--set", "train.lr=1e39", code=1
    ).stderr
    told = re.findall(
        r"error: train/\S+ failed: .* is (?:not finite|nan|inf) .*\n  log: .*log.txt", said
    )
    assert len(told) == 6, said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--render-only",), "say --executor slurm"),
        (("--executor", "ray", "--jobs", "2"), "--jobs is for this machine"),
        (("--executor", "slurm", "--force"), "can't be handed to Slurm"),
        (("--executor", "slrum"), "slurm"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    words: tuple[str, ...], told: str, saectl: Saectl
) -> None:
    said = saectl("run", SUITE, *words, code=2).stderr
    assert told in said
    assert not saectl.store.exists()
