"""Claims of parts: beside each other, unless they overlap; the whole when nobody holds any."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from claims import hold

from sae_cli.errors import Blocked
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import claim, is_held, read_holder
from sae_cli.store.records.status import Status, state


@pytest.fixture
def stage(tmp_path: Path) -> StageDir:
    return StageDir(tmp_path / "train" / "x-00000000")


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
            assert not is_held(stage, "000008-000012")
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


@pytest.mark.parametrize("other", ["000000-000016", "000002-000003", "000006-000010"])
def test_parts_of_another_size_exclude_those_they_overlap_while_their_holder_lives(
    stage: StageDir, other: str
) -> None:
    process = hold(stage, "000002-000008")
    try:
        with pytest.raises(Blocked, match=f"pid {process.pid}"), claim(stage, other):
            pass
        assert is_held(stage, other) and not is_held(stage, "000008-000010")
        with claim(stage, "000000-000002"), claim(stage, "000008-000010"), claim(stage, "opening"):
            pass
    finally:
        process.kill()
        process.wait()
    assert not is_held(stage, other)
    with claim(stage, other) as held:
        held.check()
        assert [path.name for path in stage.claims] == [f"claim.{other}"]


def test_a_part_is_held_for_all_while_the_whole_is(stage: StageDir) -> None:
    assert not is_held(stage, "a")
    with claim(stage):
        assert is_held(stage, "a")
    assert not is_held(stage, "a")


def test_who_has_patience_gets_a_part_as_soon_as_its_holder_leaves(stage: StageDir) -> None:
    refused, order = threading.Event(), []

    def wait() -> None:
        with pytest.raises(Blocked), claim(stage, "opening"):
            pass
        refused.set()
        with claim(stage, "opening", patience=60):
            order.append("waited")

    with claim(stage, "opening"):
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert refused.wait(60)
        order.append("left")
    waiter.join(60)
    assert order == ["left", "waited"]


def test_nobody_is_patient_with_one_who_holds_the_whole(stage: StageDir) -> None:
    with claim(stage), pytest.raises(Blocked), claim(stage, "opening", patience=3600):
        pass
