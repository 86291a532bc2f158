"""A sweep on a real Slurm: arrays, dependencies, a killed job, one that reaches its time limit."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from realcommand import Disk, Saectl
from slurmserver import Slurm
from suiterun import SUITE, same

PATIENCE = 600.0
LONG = """\
name: long
model: tiny
data: {tokens: 65_536, heldout_tokens: 4096, context: 128}
train: {arch: topk, k: 8, width: 512, num_tokens: 10_000_000, checkpoint_every: 50}
matrix: {layer: [1], site: [mlp_out]}
resources: {grace_seconds: 58, train: {hours: 0.017, cpus: 1}}
"""


def wait(what, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def submitted(said: str) -> dict[str, str]:
    """Job ids by step, from the table that the command prints."""
    lines = [line.split() for line in said.splitlines() if re.match(r"\d+-", line)]
    return {line[0]: line[-1] for line in lines}


@pytest.mark.slow
def test_a_suite_on_slurm_ends_like_a_local_run_though_a_job_was_killed(
    slurm: Slurm, saectl: Saectl, suite: Disk
) -> None:
    asked = ("--executor", "slurm", "--set", "resources.train.cpus=1")
    ids = submitted(saectl("run", SUITE, *asked, env=slurm.env).stdout)
    assert [name.split("-")[1] for name in ids] == ["tokens", "cache", "train", "eval", "release"]
    assert sum(job[1] == ids["3-train"] for job in slurm.jobs()) == 4, "an element for each array"
    assert "afterany" in slurm("scontrol", "show", "job", ids["4-eval"])

    wait(lambda: list(saectl.store.glob("train/*/claim")))
    for job in slurm.jobs():
        if job[1] == ids["3-train"] and job[3] == "RUNNING":
            slurm("scancel", "--signal=KILL", job[0])
    wait(slurm.idle)
    there = Disk(saectl.store)
    saectl("status", "--check", code=3)
    assert 0 < len(there.done("train")) < 8 and not there.done("release")

    again = submitted(saectl("run", SUITE, *asked, env=slurm.env).stdout)
    assert [name.split("-")[1] for name in again] == ["train", "eval", "release"]
    wait(slurm.idle)
    same(there, suite)
    logs = [path.read_text() for path in saectl.store.glob("train/*/log.txt")]
    assert sum("SAEs: 0 of" in log or ": 0 of" in log for log in logs) == 8, "begun twice"
    saectl("status", "--check")


@pytest.mark.slow
def test_a_job_that_reaches_its_time_limit_saves_is_queued_again_and_goes_on(
    slurm: Slurm, saectl: Saectl, tmp_path: Path, command
) -> None:
    spec = tmp_path / "long.yaml"
    spec.write_text(LONG)
    ids = submitted(saectl("train", spec, "--executor", "slurm", env=slurm.env).stdout)
    wait(slurm.idle)
    shown = slurm("scontrol", "show", "job", ids["3-train"])
    assert int(re.search(r"Restarts=(\d+)", shown)[1]) >= 1, shown
    log = next(saectl.store.glob("runs/long/slurm/*/saectl-long-3-train-0.txt")).read_text()
    assert "queued again" in log and "resumes at" in log, log
    alone = command(tmp_path / "alone")
    alone("train", spec)
    assert Disk(saectl.store).artefacts("train") == Disk(alone.store).artefacts("train")


def test_scripts_are_rendered_without_slurm_and_nothing_is_submitted(
    saectl: Saectl, tmp_path: Path
) -> None:
    said = saectl(
        "run", SUITE, "--executor", "slurm", "--render-only",
        "--set", "storage.budget=40MB",
        "--set", "resources.train={gpus: 1, hours: 4, at_once: 3, options: [--constraint=h100]}",
        "--set", "resources.setup=[module load cuda]",
        env={"PATH": "/nowhere"},
    ).stdout  # fmt: skip
    (folder,) = saectl.store.glob("runs/suite/slurm/*")
    assert "nothing was submitted" in said and str(folder) in said
    names = sorted(p.name for p in folder.glob("*.sbatch"))
    assert sum("cache" in name for name in names) == 2, "a wave for each half of the bytes"
    train = next(folder.glob("3-train-wave1.sbatch")).read_text()
    for wanted in ("--gres=gpu:1", "--time=240", "%3", "--constraint=h100", "\nmodule load cuda\n"):
        assert wanted in train, train
    keys = [
        key
        for path in folder.glob("*.sbatch")
        for key in re.findall(
            r"\b[0-9a-f]{8}\b", path.read_text().split("stages=(")[1].split("\n)")[0]
        )
    ]
    planned = saectl.sweep("plan", SUITE)["stages"]
    assert sorted(keys) == sorted(s["key"] for s in planned), "every stage is in one array"
    submit = (folder / "submit.sh").read_text()
    assert submit.count("sbatch --parsable") == len(names) and "afterany" in submit


def test_without_slurm_the_error_says_where_the_scripts_are(saectl: Saectl) -> None:
    said = saectl("run", SUITE, "--executor", "slurm", code=2, env={"PATH": "/nowhere"}).stderr
    assert "sbatch is not on the PATH" in said and "submit.sh" in said


def test_a_refusal_of_slurm_is_told_in_its_own_words(slurm: Slurm, saectl: Saectl) -> None:
    said = saectl(
        "run", SUITE, "--executor", "slurm", "--set", "resources.tokens.partition=nowhere",
        code=1, env=slurm.env,
    ).stderr  # fmt: skip
    assert "nvalid partition" in said and "resources" in said
    assert slurm.idle(), json.dumps(slurm.jobs())
