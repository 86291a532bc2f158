"""Weights & Biases gets the curve of each SAE of a grid in a run of its own, named by its key."""

from __future__ import annotations

from pathlib import Path

import pytest
from shuffling import wait_for

from sae_cli.spec.stages import WandbSpec
from sae_cli.stages.track import Tracker, tracker

SPEC = WandbSpec(project="saes", mode="offline")


def test_without_wandb_nothing_is_written(tmp_path):
    with tracker(None, "0a0a0a0a", "one", {}, tmp_path) as watch:
        watch.log({"fvu": 1.0}, 1)
    assert type(watch) is Tracker and not list(tmp_path.iterdir())


def test_saes_of_a_grid_have_runs_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    one, two = (tracker(SPEC, key, f"sae-{key}", {"k": 8}, tmp_path) for key in ("0a0a", "0b0b"))
    with one, two:
        for step, (a, b) in enumerate([(0.2718281, 0.3141592), (0.1414213, 0.1732050)]):
            one.log({"fvu": a}, step)  # in turn, as a grid does
            two.log({"fvu": b}, step)
    for key, own, other in [
        ("0a0a", (b"0.2718281", b"0.1414213"), (b"0.3141592", b"0.173205")),
        ("0b0b", (b"0.3141592", b"0.173205"), (b"0.2718281", b"0.1414213")),
    ]:
        (file,) = tmp_path.rglob(f"run-{key}.wandb")
        # its own process writes it, a moment later
        wait_for(lambda file=file, own=own: all(n in file.read_bytes() for n in own))
        assert not any(number in file.read_bytes() for number in other)
