"""Cells trained and evaluated in one go, and one at a time: the same files, digest for digest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from judging import SAES, Sweep

from sae_cli.plan.graph import Stage
from sae_cli.plan.place import folder
from sae_cli.run import inline
from sae_cli.run.context import Context
from sae_cli.stages.metrics import METRICS
from sae_cli.store.weights import WEIGHTS


def ran(here: Sweep, stages: Sequence[Stage]) -> None:
    context = Context(here.workspace, here.report, "cpu", lambda: False)
    assert [r.ending for r in inline.run(stages, context)] == ["done"] * len(stages)


def recorded(here: Sweep) -> dict[str, dict[str, str]]:
    """sha256 of every output of the trainings and evaluations, as their records say."""
    return {
        stage.name: {
            name: output["sha256"]
            for name, output in json.loads(folder(here.workspace, stage).done.read_text())[
                "outputs"
            ].items()
        }
        for stage in here.graph.of("train", "eval")
        if folder(here.workspace, stage).done.exists()
    }


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the arrays that all cells read."""
    here = Sweep(tmp_path_factory.mktemp("captured"))
    ran(here, here.graph.of("tokens", "cache"))
    return here.workspace.root


@pytest.fixture(scope="module")
def together(captured: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    here = copy(captured, tmp_path_factory.mktemp("together"))
    ran(here, here.graph.of("train", "eval"))
    groups = [label for label, *_ in here.report.all_begun]
    assert any("SAEs on tiny.L0" in label for label in groups)
    assert groups[-1] == f"{SAES} SAEs of tiny", "all evaluations are one job"
    return recorded(here)


def copy(store: Path, root: Path) -> Sweep:
    shutil.copytree(store, root / "store", symlinks=True)
    return Sweep(root)


def test_cells_one_at_a_time_have_the_digests_of_the_whole_sweep(
    captured: Path, together: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    here = copy(captured, tmp_path)
    cells = here.evals[::-2]  # the last of the sweep first
    for one in cells:
        ran(here, [one.deps["train"]])
        ran(here, [one])
    found = recorded(here)
    assert len(together) == 2 * SAES and len(found) == 2 * len(cells)
    assert all(WEIGHTS in found[e.deps["train"].name] for e in cells)
    assert all(METRICS in found[e.name] for e in cells)
    assert found.items() <= together.items()
