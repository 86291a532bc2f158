"""Weights & Biases gets the curve of each SAE in a run of its own, every step exactly once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training import Bench, bench

from sae_cli.spec.stages import WandbSpec
from sae_cli.spec.work import TrainWork
from sae_cli.stages.task import Task
from sae_cli.stages.track import Tracker, tags, tracker
from sae_cli.stages.track_files import history, last_step, records

SPEC = WandbSpec(project="saes", mode="offline", group="suite")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")


def task_of(place: Bench, name: str, key: str) -> Task:
    """A training that is tracked, and would be of the folder `name`."""
    plain = place.task(name, arch="topk", k=8)
    assert isinstance(plain.work, TrainWork)
    return replace(plain, key=key, work=TrainWork(train=plain.work.train, wandb=SPEC))


def joined(task: Task) -> list[tuple[int, dict[str, float]]]:
    """Steps and numbers of all attempts, in the order in which a sync uploads them."""
    files = sorted((task.out / "wandb").glob("offline-run-*/*.wandb"))
    found = []
    for file in files:
        for step, numbers in history(file):
            read = {k: json.loads(v) for k, v in numbers.items() if not k.startswith("_")}
            assert json.loads(numbers["_step"]) == step
            found.append((step, read))
    return found


def about(task: Task) -> list[Any]:
    """What each attempt says of its run."""
    from wandb.proto import wandb_internal_pb2 as messages

    found = []
    for file in sorted((task.out / "wandb").glob("offline-run-*/*.wandb")):
        for data in records(file.read_bytes()):
            record = messages.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                found.append(record.run)
                break
    return found


def test_without_wandb_nothing_is_written(tmp_path: Path) -> None:
    task = bench(tmp_path).task("one", arch="topk", k=8)
    with tracker(task) as watch:
        watch.log({"fvu": 1.0}, 1)
    assert type(watch) is Tracker and not list(task.out.iterdir())


def test_saes_of_a_grid_have_runs_side_by_side(tmp_path: Path) -> None:
    place = bench(tmp_path)
    tasks = [task_of(place, name, key) for name, key in (("one", "0a0a0a0a"), ("two", "0b0b0b0b"))]
    one, two = map(tracker, tasks)
    with one, two:
        for step, (a, b) in enumerate([(0.25, 0.5), (0.125, 0.75)], 1):
            one.log({"fvu": a}, step)  # in turn, as a grid does
            two.log({"fvu": b}, step)
    assert joined(tasks[0]) == [(1, {"fvu": 0.25}), (2, {"fvu": 0.125})]
    assert joined(tasks[1]) == [(1, {"fvu": 0.5}), (2, {"fvu": 0.75})]
    for task, (run,) in zip(tasks, map(about, tasks), strict=True):
        assert (run.run_id, run.display_name) == (task.key, task.slug)
        assert (run.run_group, run.job_type, run.project) == ("suite", "train", "saes")
        assert sorted(run.tags) == sorted(tags(task)) == ["mlp_out", "tiny", "topk"]


def test_a_step_that_an_earlier_attempt_logged_is_not_logged_again(tmp_path: Path) -> None:
    """The attempt went on to step 50; the checkpoint is that of step 30, and the curve ends there:
    steps 40 and 50 come again, with the same numbers."""
    task = task_of(bench(tmp_path), "one", "0c0c0c0c")
    line = {step: {"fvu": 1 / step, "l0": float(step)} for step in range(10, 80, 10)}
    with tracker(task) as watch:
        for step in range(10, 60, 10):
            watch.log(line[step], step)
    assert last_step(task.out, task.key) == 50
    with tracker(task, [(step, line[step]) for step in (10, 20, 30)]) as watch:
        for step in range(40, 80, 10):
            watch.log(line[step], step)
    assert joined(task) == list(line.items())
    assert len(about(task)) == 2


def test_a_step_that_was_lost_is_logged_when_the_training_resumes(tmp_path: Path) -> None:
    """The file of the killed attempt is torn behind its second step, as after a power cut."""
    task = task_of(bench(tmp_path), "one", "0d0d0d0d")
    line = {step: {"fvu": 1 / step} for step in range(10, 70, 10)}
    with tracker(task) as watch:
        for step in range(10, 50, 10):
            watch.log(line[step], step)
    (file,) = task.out.glob("wandb/offline-run-*/*.wandb")
    data = file.read_bytes()
    third = bisect_left(range(len(data)), 3, key=lambda n: len(cut(file, data[:n])))
    assert [step for step, _ in cut(file, data[: third - 1])] == [10, 20]
    with tracker(task, [(step, line[step]) for step in (10, 20, 30, 40)]) as watch:
        for step in (50, 60):
            watch.log(line[step], step)
    assert joined(task) == list(line.items())


def cut(file: Path, data: bytes) -> list[tuple[int, dict[str, str]]]:
    file.write_bytes(data)
    return list(history(file))


def test_a_run_whose_block_was_added_late_gets_the_whole_curve(tmp_path: Path) -> None:
    task = task_of(bench(tmp_path), "one", "0e0e0e0e")
    before = [(step, {"fvu": 1 / step}) for step in range(1, 2000)]
    with tracker(task, before) as watch:
        watch.log({"fvu": 0.0}, 2000)
    (file,) = task.out.glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 3 * 32 * 1024, "records cross the blocks of the file"
    assert joined(task) == [*before, (2000, {"fvu": 0.0})]


def test_online_what_the_server_has_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so when the run is resumed; what it did not get comes from the curve."""
    import wandb

    sent: list[tuple[int, dict[str, float]]] = []
    server = SimpleNamespace(
        starting_step=21,
        log=lambda numbers, step, commit: sent.append((step, numbers)),
        finish=lambda exit_code: None,
    )
    asked: dict[str, Any] = {}
    monkeypatch.setattr(wandb, "init", lambda **given: asked.update(given) or server)
    plain = task_of(bench(tmp_path), "one", "0a0b0c0d")
    assert isinstance(plain.work, TrainWork)
    online = SPEC.model_copy(update={"mode": "online"})
    task = replace(plain, work=plain.work.model_copy(update={"wandb": online}))
    line = {step: {"fvu": 1 / step} for step in range(10, 60, 10)}
    with tracker(task, [(step, line[step]) for step in (10, 20, 30)]) as watch:
        for step in (40, 50):
            watch.log(line[step], step)
    assert sent == [(step, line[step]) for step in (30, 40, 50)]
    assert (asked["id"], asked["resume"], asked["group"]) == (task.key, "allow", "suite")


DYING = """
    import os, signal, sys, time
    from pathlib import Path
    from test_train_track import joined, task_of
    from training import Bench
    from sae_cli.stages.track import tracker

    task = task_of(Bench(Path(sys.argv[1])), "one", "0f0f0f0f")
    with tracker(task) as watch:
        for step in range(1, int(sys.argv[2]) + 1):
            watch.log({"fvu": 1 / step}, step)
        while step == 500 and not joined(task):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("steps", [5, 500])
def test_attempts_join_to_one_curve_when_the_first_was_killed(steps: int, tmp_path: Path) -> None:
    """It dies after it logged: of few steps nothing has reached the disk, of many a part."""
    place = bench(tmp_path)
    task = task_of(place, "one", "0f0f0f0f")
    folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    own = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}  # not this process's
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DYING), str(tmp_path), str(steps)],
        env=own | {"PYTHONPATH": os.pathsep.join([*folders, *sys.path])},
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    there = len(joined(task))
    assert there == 0 if steps == 5 else 0 < there < steps
    line = {step: {"fvu": 1 / step} for step in range(1, steps + 9)}
    saved = steps // 2  # before what is there, or behind it
    with tracker(task, [(step, line[step]) for step in range(1, saved + 1)]) as watch:
        for step in range(saved + 1, steps + 9):
            watch.log(line[step], step)
    assert joined(task) == list(line.items())
    assert {run.run_id for run in about(task)} == {task.key}
    assert len(about(task)) == (1 if there == 0 else 2)
