"""A workspace in which a small sweep was run, as its records show it; no tensor is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from sae_cli.cli.session import open_sweeps, remember
from sae_cli.plan.graph import Graph
from sae_cli.plan.place import folder, record_of
from sae_cli.store.layout import Workspace
from sae_cli.store.records.claim import claim
from sae_cli.store.records.ledger import open_stage, record_done

SPEC = """\
name: small
train: {width: 64}
matrix:
  layer: [1]
  k: [4, 8]
"""


@dataclass(frozen=True)
class Ran:
    """A sweep file, its workspace, and its stages."""

    spec: Path
    workspace: Workspace
    graph: Graph

    def finish(self, *kinds: str) -> None:
        """The records of these kinds of stages, as a run would leave them."""
        for stage in self.graph.stages:
            if stage.kind not in kinds:
                continue
            place = folder(self.workspace, stage)
            with claim(place) as held:
                open_stage(place, record_of(stage))
                data = place.path / "data.bin"
                if stage.kind == "cache":
                    place.activations.mkdir()
                    data = place.activations / "chunk"
                data.write_bytes(stage.key.encode() * 100)
                record_done(held, [data], {"metrics": {"l0_v1": 4.0, "fvu.pooled_v1": None}}, 2.0)
        remember(self.graph, self.workspace)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_home: Path) -> Ran:
    """The sweep `small.yaml` of the current folder, of which nothing was run yet."""
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "small.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    workspace = Workspace(tmp_path / "store")
    (opened,) = open_sweeps(spec, None, None, workspace, online=False)
    return Ran(spec, workspace, opened.graph)
