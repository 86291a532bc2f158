"""Claims: one holder, found out when dead, and never two winners."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from claims import forge, hold

from sae_cli.errors import Blocked, StoreError
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import Claim, Holder, _set_aside, claim, read_holder
from sae_cli.store.records.status import Status, state

RACE = """
import os, sys, time
from pathlib import Path
from sae_cli.errors import Blocked
from sae_cli.store.records import claim as module
from sae_cli.store.records.claim import claim
from sae_cli.store.layout import StageDir
judge = module._WATCH.dead
def slowly(*what):  # as on a slow file system: what was judged may be gone by now
    verdict = judge(*what)
    time.sleep(os.getpid() % 7 * 0.003)
    return verdict
module._WATCH.dead = slowly
print("ready", flush=True)
for line in sys.stdin:
    start, path = line.strip().split(" ", 1)
    while time.time() < float(start):
        time.sleep(0)
    said = "lost"
    try:
        with claim(StageDir(Path(path))) as held:
            said = "believed in vain that it had won"
            time.sleep(0.3)
            held.check()
        said = "won"
    except Blocked:
        pass
    print(said, flush=True)
"""


@pytest.fixture
def stage(tmp_path: Path) -> StageDir:
    return StageDir(tmp_path / "train" / "x-00000000")


def test_a_claim_lives_as_long_as_its_block(stage: StageDir) -> None:
    with claim(stage) as held:
        held.check()
        assert state(stage).status is Status.RUNNING
        assert state(stage).pid == os.getpid()
    assert not stage.claim.exists()
    with pytest.raises(ZeroDivisionError), claim(stage):
        raise ZeroDivisionError
    assert not stage.claim.exists()


def test_a_living_holder_blocks_and_is_named(stage: StageDir) -> None:
    process = hold(stage)
    try:
        named = rf"pid {process.pid}, last heard of \d s ago"
        with pytest.raises(Blocked, match=named), claim(stage):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_suspended_holder_on_this_host_is_not_taken_for_dead(stage: StageDir) -> None:
    process = hold(stage)
    try:
        process.send_signal(signal.SIGSTOP)
        os.utime(stage.claim, (0, 0))
        with pytest.raises(Blocked), claim(stage):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_killed_holder_is_taken_over_at_once_even_while_a_zombie(stage: StageDir) -> None:
    process = hold(stage)
    process.kill()
    deadline = time.monotonic() + 10
    while state(stage).status is not Status.STALE:  # not waited for: it stays a zombie
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with claim(stage) as held:
        held.check()
    process.wait()


def test_the_same_pid_born_at_another_time_is_another_process(stage: StageDir) -> None:
    forge(stage, age=0.0, born=1)
    with claim(stage) as held:
        held.check()


def test_the_heartbeat_keeps_the_claim_young_and_carries_progress(stage: StageDir) -> None:
    with claim(stage, heartbeat=0.02) as held:
        os.utime(stage.claim, (0, 0))
        held.progress(120, 480)
        deadline = time.monotonic() + 10
        while state(stage).step != 120 or (state(stage).age or 0) > 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert state(stage).total == 480


def told(stage: StageDir, held: Claim, step: int, since: float) -> None:
    """What the heartbeat writes when it comes: `step` of 480, `since` seconds after the start."""
    held.progress(step, 480)
    held._touch()
    progress = json.loads(stage.progress.read_text())
    progress |= {"since": progress["at"] - since}
    stage.progress.write_text(json.dumps(progress))


def test_the_time_left_is_that_of_the_holders_own_steps(stage: StageDir) -> None:
    """A run that was resumed at step 400 made 40 steps in 10 s: the 400 before say nothing."""
    with claim(stage, heartbeat=10.0) as held:
        held.progress(400, 480)
        told(stage, held, 440, since=10.0)
        found = state(stage)
        assert found.step == 440 and found.left is not None
        assert found.left == pytest.approx(40 * 10 / 40, abs=5.0)
    with claim(stage, heartbeat=10.0) as held:  # and again: its first step is its own
        told(stage, held, 450, since=10.0)
        assert state(stage).step == 450 and state(stage).left is None


def test_before_a_step_was_made_or_by_an_earlier_version_no_time_is_told(stage: StageDir) -> None:
    with claim(stage, heartbeat=10.0) as held:
        held.progress(0, 480)
        held._touch()
        assert state(stage).step == 0 and state(stage).left is None
        told(stage, held, 12, since=4.0)
        progress = json.loads(stage.progress.read_text())
        for name in ("first", "since", "at"):
            stage.progress.write_text(json.dumps({k: progress[k] for k in progress if k != name}))
            assert state(stage).step == 12 and state(stage).left is None
    assert state(stage).status is Status.PENDING and state(stage).left is None


def test_a_holder_that_was_silent_too_long_notices_and_leaves_the_new_claim_alone(
    stage: StageDir,
) -> None:
    with claim(stage) as held:
        taker = forge_over(stage)
        with pytest.raises(Blocked, match="taken over by far-away pid 7"):
            held.check()
    assert read_holder(stage.claim) == taker


def forge_over(stage: StageDir) -> Holder:
    """Another host takes the claim over while we hold it."""
    stage.claim.rename(stage.path / ".claim.gone")
    taker = Holder("far-away", 7, None, None, "e" * 32, time.time())
    stage.claim.write_text(json.dumps(asdict(taker)))
    return taker


def test_a_living_claim_renamed_by_mistake_is_put_back(stage: StageDir) -> None:
    """Without a working lock, a slow taker may rename what a faster one has just created."""
    stale = forge(stage, age=0.0, born=1)
    with claim(stage) as fast:
        with pytest.raises(Blocked, match=f"pid {os.getpid()}"):
            _set_aside(stage, stage.claim, stale)
        fast.check()
        assert sorted(p.name for p in stage.path.iterdir()) == [".claim.lock", "claim"]


def test_a_new_start_removes_the_record_of_the_last_failure(stage: StageDir) -> None:
    with claim(stage):
        pass
    stage.failed.write_text('{"cause": "x", "log": "y", "failed_at": 0}')
    assert state(stage).cause == "x"
    with claim(stage):
        assert not stage.failed.exists()


def test_a_disk_that_takes_no_byte_is_named_and_keeps_no_claim(stage: StageDir) -> None:
    """A claim without a name would keep everybody out for a while."""
    with claim(stage):
        pass
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(StoreError, match=f"can't write {stage.claim}: File too large"):
            claim(stage).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in stage.path.iterdir()] == [".claim.lock"]
    with claim(stage) as held:
        held.check()


def test_of_many_processes_racing_for_a_dead_ones_claim_exactly_one_wins(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(8)]
    try:
        for racer in racers:
            assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
        for n in range(8):
            stage = StageDir(tmp_path / "train" / f"x-{n:08x}")
            if n:  # the first round has no claim yet
                forge(stage, age=0.0, born=1)
            start = time.time() + 0.05
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write(f"{start} {stage}\n")
                racer.stdin.flush()
            said = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
            assert sorted(said) == ["lost"] * 7 + ["won"], f"round {n}: {said}"
            assert [p.name for p in stage.path.iterdir()] == [".claim.lock"]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
