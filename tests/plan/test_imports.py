"""An imported SAE in a plan: pinned by its files, trained by nobody, judged like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from sparsecoders import LAYER, coder

from sae_cli.cli.session import open_sweeps, remember
from sae_cli.errors import StoreError
from sae_cli.plan.cost import cost
from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.jobs import Job, coalesce
from sae_cli.plan.memory import need
from sae_cli.plan.place import serves
from sae_cli.plan.predict import totals
from sae_cli.plan.sizes import disk_bytes
from sae_cli.spec.work import ImportWork
from sae_cli.store.formats.registry import FORMATS
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records.status import Status

SWEEP = """\
name: mixed
model: tiny
train: {width: 64}
matrix:
  include:
    - {layer: 1, site: resid_post, arch: topk, k: 8}
    - {layer: 1, site: resid_post, arch: batchtopk, k: 8}
"""
CELL = (
    "    - {layer: 1, site: resid_post, arch: imported, format: sparsify, path: PATH, width: 64, "
    "function: topk, k: 8, label: LABEL}\n"
)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of one SAE: what its files hold, a plan does not ask."""
    FORMATS["sparsify"].write(coder("topk", layer=LAYER), tmp_path / "theirs")
    return tmp_path / "theirs"


def sweep(*paths: Path | str, train: str = "train: {}\n") -> str:
    cells = [
        CELL.replace("PATH", str(path)).replace("LABEL", f"n{i}") for i, path in enumerate(paths)
    ]
    return f"name: theirs\nmodel: tiny\n{train}matrix:\n  include:\n{''.join(cells)}"


def imports(graph: Graph) -> list[Stage]:
    return [s for s in graph.of("train") if isinstance(s.work, ImportWork)]


def test_its_key_follows_its_files_and_not_their_place(
    graph: Callable[..., Graph], theirs: Path, tmp_path: Path
) -> None:
    (first,) = imports(graph(sweep(theirs)))
    moved = theirs.rename(tmp_path / "moved")
    (second,) = imports(graph(sweep(moved)))
    assert (
        first.key == second.key and first.slug == "tiny.L1.resid_post.imported.w64.k8.sparsify.n0"
    )
    (moved / "notes.md").write_text("no file of the SAE")
    assert imports(graph(sweep(moved)))[0].key == first.key
    FORMATS["sparsify"].write(coder("topk", layer=LAYER, seed=1), moved)
    assert imports(graph(sweep(moved)))[0].key != first.key


def test_what_is_pinned_needs_no_file_and_what_is_not_needs_them(
    graph: Callable[..., Graph], theirs: Path
) -> None:
    (stage,) = imports(graph(sweep(theirs)))
    assert isinstance(stage.work, ImportWork)
    pinned = sweep(theirs).replace("label", f'digest: "{stage.work.sae.digest}", label')
    (theirs / "sae.safetensors").unlink()
    with pytest.raises(StoreError, match=r"it has no sae\.safetensors"):
        graph(sweep(theirs))
    assert imports(graph(pinned))[0].key == stage.key


def test_a_recorded_sweep_is_pinned_and_does_not_hang_on_where_it_was_begun(
    theirs: Path, tmp_path: Path, workspace: Workspace, clean_home: Path, monkeypatch: Any
) -> None:
    (tmp_path / "sweep.yaml").write_text(sweep("theirs"))
    monkeypatch.chdir(tmp_path)
    (opened,) = open_sweeps(tmp_path / "sweep.yaml", None, None, workspace, online=False)
    remember(opened.graph, workspace)
    record = workspace.run_dir("theirs") / "sweep.json"
    (cell,) = json.loads(record.read_text())["matrix"]["include"]
    assert cell["path"] == str(theirs) and len(cell["digest"]) == 64
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (again,) = open_sweeps(record, None, None, workspace, online=False)
    assert [s.key for s in again.graph.stages] == [s.key for s in opened.graph.stages]


def test_an_import_shares_no_pass_with_a_training(
    graph: Callable[..., Graph], theirs: Path
) -> None:
    made = graph(SWEEP + CELL.replace("PATH", str(theirs)).replace("LABEL", "x"))
    jobs = [job.stages for job in coalesce(made.of("train"))]
    assert [[s.work.__class__.__name__ for s in job] for job in jobs] == [
        ["TrainWork", "TrainWork"], ["ImportWork"],
    ]  # fmt: skip
    assert [len(job.stages) for job in coalesce(made.of("eval"))] == [3]


def test_it_costs_no_training_and_the_disk_of_an_sae(
    graph: Callable[..., Graph], theirs: Path
) -> None:
    made = graph(SWEEP + CELL.replace("PATH", str(theirs)).replace("LABEL", "x"))
    topk, _, imported = made.of("train")
    assert disk_bytes(imported) == disk_bytes(topk)
    found = cost(Job((imported,)))
    assert (found.tokens, found.forward, found.arithmetic) == (0, 0, 0)
    here = need([imported])
    assert here is not None and here.end > 0 == here.device
    alone = totals(coalesce(graph(sweep(theirs)).of("train", "eval")), None)
    assert alone.train_tokens == 0 and alone.train_flops == 0
    assert alone.device_hours is not None


def test_freed_activations_are_enough_for_it(
    graph: Callable[..., Graph], theirs: Path, finish: Callable[[Iterable[Stage]], list[StageDir]]
) -> None:
    made = graph(SWEEP + CELL.replace("PATH", str(theirs)).replace("LABEL", "x"))
    (array,) = made.of("cache")
    topk, _, imported = made.of("train")
    assert serves(Status.EVICTED, array, imported)
    assert not serves(Status.EVICTED, array, topk)
    assert not serves(Status.ABSENT, array, imported)


@pytest.mark.parametrize("where", ["axis", "train", "both"])
@pytest.mark.parametrize("form", ["sparsify", "qwen-scope"])
def test_a_recorded_sweep_opens_when_the_files_of_an_axis_or_of_train_are_gone(
    where: str, form: str, tmp_path: Path, workspace: Workspace, clean_home: Path, monkeypatch: Any
) -> None:
    for name in ("theirs", "others"):
        for layer in (1, 2):
            made = coder("topk", layer=layer, seed=layer if form == "qwen-scope" else 0)
            FORMATS[form].write(made, tmp_path / name)
    fields = f"arch: imported, format: {form}, width: 64, function: topk, k: 8"
    text = {
        "axis": "matrix: {layer: [1, 2], sae: [{arch: topk, k: 8, width: 64}, "
        f"{{{fields}, path: theirs}}], exclude: [{{path: theirs, layer: 2}}]}}",
        "train": f"train: {{{fields}, path: theirs}}\nmatrix: {{layer: [1, 2]}}",
        "both": f"train: {{{fields}, path: theirs}}\nmatrix: {{layer: [1, 2], sae: [{{label: a}}, "
        "{label: b, path: others}], include: [{layer: 1, label: c}]}",
    }[where]
    (tmp_path / "sweep.yaml").write_text(f"name: theirs\nmodel: tiny\n{text}\n")
    monkeypatch.chdir(tmp_path)
    (opened,) = open_sweeps(tmp_path / "sweep.yaml", None, None, workspace, online=False)
    remember(opened.graph, workspace)
    for name in ("theirs", "others"):
        (tmp_path / name).rename(tmp_path / f"{name} moved")
    (again,) = open_sweeps(None, None, None, workspace, online=False)
    assert [s.key for s in again.graph.stages] == [s.key for s in opened.graph.stages]
    assert remember(again.graph, workspace) is None, "what was recorded says the same"
