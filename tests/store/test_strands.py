"""Work beside the forward: in order where it must be, bounded, and never silently lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from sae_cli.store.acts.strands import Lanes, Strand


def test_tasks_of_a_strand_run_in_order_and_strands_beside_each_other() -> None:
    ran: dict[int, list[int]] = {n: [] for n in range(5)}
    meeting = threading.Barrier(5, timeout=20)
    with Lanes(5) as lanes:
        strands = [Strand() for _ in ran]
        for strand in strands:
            lanes.submit(strand, meeting.wait)  # all five at once, or none gets past
        for i in range(200):
            for n, strand in enumerate(strands):
                lanes.submit(strand, lambda n=n, i=i: ran[n].append(i))
        lanes.drain()
        assert all(done == list(range(200)) for done in ran.values())


def test_one_strand_never_runs_in_two_threads() -> None:
    inside = threading.Lock()

    def alone() -> None:
        assert inside.acquire(blocking=False)
        time.sleep(0.0005)
        inside.release()

    with Lanes(8) as lanes:
        strand = Strand()
        for _ in range(100):
            lanes.submit(strand, alone)
        lanes.drain()


def test_an_error_reaches_the_caller_and_stops_the_rest() -> None:
    ran: list[int] = []
    go = threading.Event()

    def fail() -> None:
        go.wait(20)
        raise OSError("the disk says no")

    with Lanes(2, limit=10) as lanes:
        first, second = Strand(), Strand()
        lanes.submit(first, fail)
        for n in range(5):
            lanes.submit(first, lambda n=n: ran.append(n))
        lanes.submit(second, fail)
        lanes.submit(second, lambda: ran.append(9))
        lanes.reserve(10)
        go.set()
        calls = [
            lambda: lanes.reserve(1),
            lanes.drain,
            lambda: lanes.submit(Strand(), lambda: ran.append(99)),
            lanes.drain,
        ]
        for call in calls:
            with pytest.raises(OSError, match="the disk says no"):
                call()
    assert ran == []


def test_bytes_under_way_are_bounded_by_the_limit_and_one_chunk() -> None:
    limit, size, under_way, most = 100, 30, 0, 0
    state = threading.Lock()

    def work() -> None:
        nonlocal under_way
        time.sleep(0.001)
        with state:
            under_way -= size
        lanes.release(size)

    with Lanes(3, limit=limit) as lanes:
        strands = [Strand() for _ in range(3)]
        for n in range(100):
            lanes.reserve(size)
            with state:
                under_way += size
                most = max(most, under_way)
            lanes.submit(strands[n % 3], work)
        lanes.drain()
    assert limit <= most < limit + size


def test_a_caller_waits_while_the_limit_is_reached() -> None:
    gate, reserved = threading.Event(), threading.Event()
    with Lanes(1, limit=10) as lanes:
        strand = Strand()
        lanes.reserve(25)  # one chunk may be larger than the limit

        def slow() -> None:
            gate.wait(20)
            lanes.release(25)

        def caller() -> None:
            lanes.reserve(1)
            reserved.set()

        lanes.submit(strand, slow)
        waiting = threading.Thread(target=caller)
        waiting.start()
        assert not reserved.wait(0.05)
        gate.set()
        assert reserved.wait(20)
        waiting.join()


def test_drain_waits_for_tasks_that_tasks_submit() -> None:
    ran: list[int] = []
    with Lanes(3) as lanes:
        strands = [Strand() for _ in range(4)]

        def task(depth: int) -> None:
            time.sleep(0.001)
            if depth:
                lanes.then(strands[depth % 4], lambda: task(depth - 1))
            ran.append(depth)

        lanes.submit(strands[0], lambda: task(20))
        lanes.drain()
        assert sorted(ran) == list(range(21))


def test_closing_ends_the_threads_and_drops_what_is_waiting() -> None:
    before = set(threading.enumerate())
    begun, gate = threading.Event(), threading.Event()
    ran: list[str] = []

    def slow() -> None:
        begun.set()
        gate.wait(20)
        ran.append("begun")

    lanes, strand = Lanes(2), Strand()
    assert len(set(threading.enumerate()) - before) == 2
    lanes.submit(strand, slow)
    lanes.submit(strand, lambda: ran.append("waiting"))
    begun.wait(20)
    threading.Timer(0.02, gate.set).start()
    lanes.close()
    assert ran == ["begun"]
    lanes.close()
    left = [
        t for t in threading.enumerate() if t not in before and not isinstance(t, threading.Timer)
    ]
    assert left == []


def test_closing_after_an_error_does_not_hang() -> None:
    def fail() -> None:
        raise ValueError("no")

    lanes = Lanes(2)
    strands = [Strand() for _ in range(4)]
    for strand in strands:
        lanes.then(strand, fail)
        lanes.then(strand, fail)
    with pytest.raises(ValueError, match="no"):
        lanes.drain()
    for strand in strands:
        lanes.forget(strand)
    lanes.close()


def test_a_forgotten_strand_runs_no_more_and_others_go_on() -> None:
    begun, gate = threading.Event(), threading.Event()
    ran: list[str] = []

    def slow() -> None:
        begun.set()
        gate.wait(20)
        ran.append("slow")

    with Lanes(1) as lanes:
        mine, other = Strand(), Strand()
        lanes.submit(mine, slow)
        lanes.submit(mine, lambda: ran.append("forgotten"))
        lanes.submit(other, lambda: ran.append("other"))
        begun.wait(20)
        threading.Timer(0.02, gate.set).start()
        lanes.forget(mine)
        assert ran[:1] == ["slow"]  # it waited for what was running
        lanes.drain()
        lanes.submit(mine, lambda: ran.append("again"))
        lanes.drain()
    assert ran == ["slow", "other", "again"]


def test_the_callers_number_of_threads_is_left_alone() -> None:
    """In a process of its own: what counts is who computes first."""
    code = (
        "import threading, time, torch\n"
        "from sae_cli.store.acts.strands import Lanes\n"
        "def born():\n"
        "    found = []\n"
        "    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))\n"
        "    thread.start(); thread.join()\n"
        "    return found[0]\n"
        "with Lanes(4):\n"
        "    while born() != 1: time.sleep(0.01)\n"  # until a lane has set its own
        "    inside = torch.get_num_threads()\n"
        "print(inside, torch.get_num_threads(), born())"
    )
    usual = told("import torch; print(torch.get_num_threads())")
    assert told(code) == 3 * usual


def told(code: str) -> list[str]:
    """The words that a Python of its own prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()
