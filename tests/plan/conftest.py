"""Graphs from a few lines of YAML, and stages that stand on disk as a run leaves them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from sae_cli.plan.graph import Graph, Stage, build
from sae_cli.plan.pin import Pins
from sae_cli.plan.place import folder, record_of
from sae_cli.spec.load import load
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records.claim import claim
from sae_cli.store.records.ledger import open_stage, record_done

FIXED = """\
name: fixed
model: qwen
models:
  qwen: {hf: org/model, revision: 0123456789abcdef0123456789abcdef01234567}
data:
  sources:
    - {hf: org/text, config: small, revision: 89abcdef0123456789abcdef0123456789abcdef}
  tokens: 1_000_000
  heldout_tokens: 65_536
  context: 256
train: {width: 1024}
matrix:
  layer: [1, 2]
  sae:
    - {arch: topk, k: 16}
    - {arch: relu_l1, l1: 2.5, lr: 1e-3}
    - {arch: jumprelu, l0: 24, seed: 3}
"""


@pytest.fixture
def fixed() -> str:
    """A sweep whose keys rest on nothing but its own text."""
    return FIXED


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "store")


@pytest.fixture
def graph(tmp_path: Path, workspace: Workspace, clean_home: Path) -> Callable[..., Graph]:
    """`graph(text, *sets)`: the stages of a sweep, pinned as `plan` pins it."""

    def make(text: str = FIXED, *sets: str) -> Graph:
        file = tmp_path / "sweep.yaml"
        file.write_text(text, encoding="utf-8")
        return build(Pins(workspace.root, online=False).apply(load(file, sets)))

    return make


@pytest.fixture
def finish(workspace: Workspace) -> Callable[[Iterable[Stage]], list[StageDir]]:
    """`finish(stages)`: each stands on disk as done, with one file of data."""

    def make(stages: Iterable[Stage]) -> list[StageDir]:
        places = []
        for stage in stages:
            place = folder(workspace, stage)
            with claim(place) as held:
                open_stage(place, record_of(stage))
                data = place.path / "data.bin"
                data.write_bytes(stage.key.encode())
                record_done(held, [data], {"metrics": {"l0_v1": 4.0}}, seconds=2.0)
            places.append(place)
        return places

    return make
