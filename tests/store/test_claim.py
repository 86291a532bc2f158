"""Claims: one holder, found out when dead, and never two winners."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sae_cli.errors import Blocked
from sae_cli.store.claim import Holder, _set_aside, claim, is_held, read_holder
from sae_cli.store.layout import StageDir
from sae_cli.store.status import Status, state

HOLD = """
import sys, time
from pathlib import Path
from sae_cli.store.claim import claim
from sae_cli.store.layout import StageDir
part = sys.argv[2] if len(sys.argv) > 2 else None
with claim(StageDir(Path(sys.argv[1])), part, heartbeat=0.05) as held:
    held.progress(3, 10)
    print("held", flush=True)
    time.sleep(60)
"""

RACE = """
import os, sys, time
from pathlib import Path
from sae_cli.errors import Blocked
from sae_cli.store import claim as module
from sae_cli.store.claim import claim
from sae_cli.store.layout import StageDir
judge = module.is_stale
def slowly(*what):  # as on a slow file system: what was judged may be gone by now
    verdict = judge(*what)
    time.sleep(os.getpid() % 7 * 0.003)
    return verdict
module.is_stale = slowly
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


def hold(stage: StageDir, *part: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(stage), *part]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def forge(stage: StageDir, age: float, **changes: object) -> Holder:
    """A claim left by someone else, last touched `age` seconds ago."""
    with claim(stage):
        holder = read_holder(stage.claim)
    assert holder is not None
    forged = replace(holder, token="f" * 32, **changes)  # type: ignore[arg-type]
    stage.claim.write_text(json.dumps(asdict(forged)))
    then = time.time() - age
    os.utime(stage.claim, (then, then))
    return forged


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


@pytest.mark.parametrize("elsewhere", [{"host": "far-away"}, {"space": "another boot or pod"}])
def test_from_elsewhere_only_silence_beyond_the_lease_counts(
    stage: StageDir, elsewhere: dict[str, object]
) -> None:
    forge(stage, age=30.0, pid=1, **elsewhere)
    with pytest.raises(Blocked), claim(stage):
        pass
    assert state(stage).status is Status.RUNNING
    forge_again = time.time() - 61
    os.utime(stage.claim, (forge_again, forge_again))
    assert state(stage).status is Status.STALE
    with claim(stage) as held:
        held.check()


def test_a_half_written_claim_blocks_until_the_lease_is_over(stage: StageDir) -> None:
    forge(stage, age=0.0)
    stage.claim.write_text('{"host": "x')
    with pytest.raises(Blocked, match="just now being claimed"), claim(stage):
        pass
    os.utime(stage.claim, (0, 0))
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


def test_parts_are_held_beside_each_other_and_the_whole_by_nobody_meanwhile(
    stage: StageDir,
) -> None:
    first = hold(stage, "000000-000004")
    try:
        for blocked in ("000000-000004", None):
            with (
                pytest.raises(Blocked, match=rf"pid {first.pid}, last heard of"),
                claim(stage, blocked),
            ):
                pass
        with claim(stage, "000004-000008") as second:
            second.check()
            assert is_held(stage, "000000-000004") and is_held(stage, "000004-000008")
            assert not is_held(stage)
            with pytest.raises(Blocked), claim(stage):
                pass
            assert state(stage).status is Status.RUNNING
        assert first.poll() is None and read_holder(stage.part_claim("000000-000004"))
    finally:
        first.kill()
        first.wait()
    assert state(stage).status is Status.STALE
    with claim(stage) as held:  # the dead one's part goes with the taking of the whole
        held.check()
        assert [path.name for path in stage.claims] == ["claim"]
        with pytest.raises(Blocked, match=f"pid {os.getpid()}"), claim(stage, "000000-000004"):
            pass


def test_a_dead_ones_part_is_taken_over_and_the_others_are_left_alone(stage: StageDir) -> None:
    dead, living = hold(stage, "000000-000004"), hold(stage, "000004-000008")
    try:
        dead.kill()
        dead.wait()
        with claim(stage, "000000-000004") as held:
            held.check()
            assert len(stage.claims) == 2
            with pytest.raises(Blocked, match=f"pid {living.pid}"), claim(stage, "000004-000008"):
                pass
        assert living.poll() is None
    finally:
        living.kill()
        living.wait()


def test_a_part_of_another_host_is_taken_over_when_its_lease_is_over(stage: StageDir) -> None:
    with claim(stage, "a"):
        holder = read_holder(stage.part_claim("a"))
    assert holder is not None
    elsewhere = asdict(replace(holder, host="far-away", token="f" * 32))
    stage.part_claim("a").write_text(json.dumps(elsewhere))
    for part in ("a", None):
        with pytest.raises(Blocked, match="claimed by far-away"), claim(stage, part):
            pass
    os.utime(stage.part_claim("a"), (0, 0))
    with claim(stage, "b"), claim(stage, "a") as held:
        held.check()


def test_only_who_holds_the_whole_sweeps_what_others_left(stage: StageDir) -> None:
    stage.path.mkdir(parents=True)
    stray = stage.path / ".done.json.0123.tmp"
    stray.touch()
    with claim(stage, "a"):
        assert stray.exists()  # it may be another part's, and alive
    with claim(stage):
        assert not stray.exists()


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
