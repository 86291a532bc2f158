"""A holder elsewhere is dead when its heartbeat stays what it was, whatever the clocks say."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from claims import forge

from sae_cli.errors import Blocked
from sae_cli.store.layout import StageDir
from sae_cli.store.records import claim as module
from sae_cli.store.records.claim import claim, is_held
from sae_cli.store.records.holder import LONG_AGO
from sae_cli.store.records.status import Status, state

QUICK = {"lease": 0.4, "heartbeat": 0.1}


@pytest.fixture
def stage(tmp_path: Path) -> StageDir:
    return StageDir(tmp_path / "train" / "x-00000000")


def refused(stage: StageDir) -> bool:
    try:
        with claim(stage, lease=QUICK["lease"], heartbeat=QUICK["heartbeat"]) as held:
            held.check()
    except Blocked:
        return True
    return False


@contextmanager
def beating(path: Path, skew: float) -> Iterator[None]:
    """Keep a claim alive from a machine whose clock is `skew` seconds before ours."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.02):
            then = time.time() + skew
            os.utime(path, (then, then))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("elsewhere", [{"host": "far-away"}, {"space": "another boot or pod"}])
def test_a_silent_holder_elsewhere_is_taken_over_once_it_was_watched_for_a_lease(
    stage: StageDir, elsewhere: dict[str, object]
) -> None:
    forge(stage, age=61.0, pid=1, **elsewhere)
    assert refused(stage), "nobody has watched it yet"
    assert state(stage).status is Status.STALE  # as far as one look tells
    time.sleep(1.1 * QUICK["lease"])
    assert not refused(stage)


def test_what_was_silent_for_very_long_needs_no_watching(stage: StageDir) -> None:
    forge(stage, age=LONG_AGO - 60, host="far-away")
    assert refused(stage)
    forge_again = time.time() - LONG_AGO - 60
    os.utime(stage.claim, (forge_again, forge_again))
    assert not refused(stage)


@pytest.mark.parametrize("skew", [-600.0, -120.0, 0.0, 3600.0])
def test_a_living_holder_is_left_alone_however_wrong_its_clock_is(
    stage: StageDir, skew: float
) -> None:
    forge(stage, age=-skew, host="far-away")
    with beating(stage.claim, skew):
        deadline = time.monotonic() + 3 * QUICK["lease"]
        while time.monotonic() < deadline:
            assert refused(stage)
            assert is_held(stage, "000000-000004", QUICK["lease"])
            time.sleep(0.05)


@pytest.mark.parametrize("skew", [-600.0, 0.0, 3600.0])
def test_a_dead_one_is_found_out_however_wrong_its_clock_was(stage: StageDir, skew: float) -> None:
    forge(stage, age=-skew, host="far-away")
    assert refused(stage) and is_held(stage, "a", QUICK["lease"])
    time.sleep(1.1 * QUICK["lease"])
    assert not is_held(stage, "a", QUICK["lease"])
    assert not refused(stage)


def test_a_beat_in_between_begins_the_watch_anew(stage: StageDir) -> None:
    forge(stage, age=61.0, host="far-away")
    assert refused(stage)
    time.sleep(1.1 * QUICK["lease"])
    os.utime(stage.claim, (1, time.time()))
    assert refused(stage)


@pytest.mark.parametrize("left", ["", '{"host": "x'])
@pytest.mark.parametrize("part", [None, "000000-000004"])
def test_a_claim_whose_writer_died_over_it_keeps_nobody_out(
    stage: StageDir, left: str, part: str | None
) -> None:
    with claim(stage):
        pass
    stage.part_claim(part).write_text(left)
    assert not is_held(stage, "000000-000002")
    with claim(stage) as held:
        held.check()
        assert stage.claims == [stage.claim]


def test_a_writer_whom_the_lock_did_not_keep_out_learns_that_its_claim_went(
    stage: StageDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks do nothing, another takes a claim over before a byte of it is written."""
    append, took = module.append_all, []

    def late(handle: int, data: bytes) -> None:
        monkeypatch.setattr(module, "append_all", append)
        with claim(stage) as taker:
            append(handle, data)
            taker.check()
            took.append(taker)

    monkeypatch.setattr(module, "lock_now", lambda _: True)
    monkeypatch.setattr(module, "append_all", late)
    with pytest.raises(Blocked):
        claim(stage).__enter__()
    assert took
