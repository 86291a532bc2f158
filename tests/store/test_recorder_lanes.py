"""A recorder that is left in the middle: what runs is waited for, what waits is given up."""

from __future__ import annotations

import threading
from pathlib import Path

from arrays import ABOUT, CHUNK, SHARD, D, acts, committed, plan, put, reasons

from sae_cli.store.acts.array import ActivationReader
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.acts.strands import Lanes


def test_a_recorder_that_is_left_gives_its_share_of_the_lanes_back(tmp_path: Path) -> None:
    size = CHUNK * D * 2
    with Lanes(1, limit=size) as lanes:
        for n in range(3):  # would wait for ever if one kept it
            with Recorder(tmp_path / str(n), plan(), ABOUT, lanes=lanes) as recorder:
                recorder.put(0, acts()[:CHUNK], reasons()[:CHUNK])
        with Recorder(tmp_path / "whole", plan(), ABOUT, lanes=lanes) as recorder:
            put(recorder)
    assert ActivationReader(tmp_path / "whole").complete
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_shard_that_is_just_being_committed_is_waited_for(tmp_path: Path) -> None:
    begun, gate = threading.Event(), threading.Event()

    def point(name: str) -> None:
        if name == "written acts":
            begun.set()
            gate.wait(20)

    with Lanes(2) as lanes:
        with Recorder(tmp_path, plan(), ABOUT, lanes=lanes, on_point=point) as recorder:
            recorder.put(0, acts()[:SHARD], reasons()[:SHARD])
            assert begun.wait(20)
            threading.Timer(0.05, gate.set).start()
        assert committed(tmp_path) == [0]
        lanes.drain()  # it went well
