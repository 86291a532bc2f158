"""A key names a result: it moves with what changes the result, and with nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sae_cli.spec.work import KINDS, VERSIONS

GOLDEN = Path(__file__).parents[1] / "golden" / "keys.json"


def names(graph):
    return {s.name for s in graph.stages}


def moved(before, after):
    """The kinds of which some stage of `before` is gone from `after`."""
    return {s.kind for s in before.stages if s.name not in names(after)}


def test_nobody_moves_a_key_by_accident(graph, golden):
    """A change here makes every workspace on every disk start over: it needs a good reason."""
    golden(GOLDEN, json.dumps([s.name for s in graph().stages], indent=1) + "\n")


@pytest.mark.parametrize(
    "edit",
    [
        "device=cuda:1",
        "wandb={project: p, group: some}",
        "train.checkpoint_every=3",
        "train.log_every=1",
        "quota=500 GB",
        "cache.store=s3://bucket/prefix",
        "cache.part_tokens=4096",
    ],
)
def test_how_the_work_is_done_moves_no_key(graph, fixed, edit):
    assert names(graph()) == names(graph(fixed, edit))


@pytest.mark.parametrize(
    ("edit", "kinds"),
    [
        ("name=other", "release"),
        ("release.title=A suite", "release"),
        ("eval.dense_threshold=0.2", "eval release"),
        ("eval.tokens=4096", "eval release"),
        ("eval.contexts=[512]", "eval release"),
        ("eval.chat=true", "eval release"),
        ("train.batch_size=512", "train eval release"),
        ("train.width=2048", "train eval release"),
        ("cache.dtype=float32", "cache train eval release"),
        ("models.qwen.dtype=float32", "cache train eval release"),
        ("models.qwen.attn_implementation=eager", "cache train eval release"),
        ("models.qwen.reinit=0", "cache train eval release"),
        ("models.qwen.trust_remote_code=true", "tokens cache train eval release"),
        (f"models.qwen.revision={'a' * 40}", "tokens cache train eval release"),
        ("data.tokens=2_000_000", "tokens cache train eval release"),
        ("data.heldout_tokens=4096", "tokens cache train eval release"),
        ("data.seed=1", "tokens cache train eval release"),
        ("data.mask.special=false", "cache train eval release"),
        ("data.mask.outlier_multiple=3", "cache train eval release"),
        ("data.mask.first_positions=2", "tokens cache train eval release"),
        ("data.sources.0.weight=2", "tokens cache train eval release"),
    ],
)
def test_an_edit_moves_the_stage_that_it_changes_and_what_comes_after(graph, fixed, edit, kinds):
    assert moved(graph(), graph(fixed, edit)) == set(kinds.split())


def test_an_edit_of_one_architecture_leaves_the_others(graph, fixed):
    edited = graph(fixed, "matrix.sae.0.k=8")
    gone = {s.slug for s in graph().stages if s.name not in names(edited)} - {"fixed"}
    assert gone == {f"model.L{n}.resid_post.topk.w1024.k16" for n in (1, 2)}


def test_writing_a_default_out_moves_no_key(graph, fixed):
    said = ["train.beta2=0.999", "eval.splice=true", "cache.dtype=bfloat16", "data.seed=0"]
    assert names(graph()) == names(graph(fixed, *said))


def test_width_and_the_expansion_that_gives_it_are_the_same_sae(graph):
    base = "name: x\nmatrix: {layer: [1]}\n"
    assert names(graph(base, "train.width=512")) == names(graph(base, "train.expansion=8"))


def test_a_cell_has_the_same_key_alone_as_in_a_grid(graph, fixed):
    alone = graph(fixed, "matrix.layer=[2]", "matrix.sae=[{arch: topk, k: 16}]")
    assert {s.name for s in alone.stages if s.kind != "release"} < names(graph())


def test_a_new_cell_moves_the_release_alone(graph, fixed):
    more = graph(fixed, "matrix.layer=[1, 2, 3]")
    assert moved(graph(), more) == {"release"}


def test_the_order_of_cells_moves_no_key(graph, fixed):
    assert names(graph()) == names(graph(fixed, "matrix.layer=[2, 1]"))


def test_a_models_name_in_the_sweep_moves_no_key(graph, fixed):
    assert names(graph()) == names(graph(fixed.replace("qwen", "another")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_version_of_a_stage_moves_it_and_what_comes_after(graph, fixed, monkeypatch, kind):
    before = graph(fixed, "studies.explanations={}")
    monkeypatch.setitem(VERSIONS, kind, VERSIONS[kind] + 1)
    after = set(KINDS[KINDS.index(kind) :]) - ({"study"} if kind == "eval" else set())
    assert moved(before, graph(fixed, "studies.explanations={}")) == after


def test_a_study_moves_the_release_alone_and_nothing_of_an_evaluation_moves_it(graph, fixed):
    studied = graph(fixed, "studies.explanations={}")
    assert moved(graph(), studied) == {"release"}
    edited = graph(fixed, "studies.explanations={}", "eval.tokens=4096")
    assert moved(studied, edited) == {"eval", "release"}


def test_only_an_sae_with_another_seed_moves_what_is_compared_across_seeds(graph, fixed):
    asked = ("studies={explanations: {}, stability: {}}", "matrix.layer=[1]")
    alone = graph(fixed, *asked, "matrix.sae=[{arch: topk, k: 16}]")
    other = graph(fixed, *asked, "matrix.sae=[{arch: topk, k: 16}, {arch: topk, k: 32}]")
    twin = graph(fixed, *asked, "matrix.sae=[{arch: topk, k: 16}, {arch: topk, k: 16, seed: 1}]")
    assert moved(alone, other) == {"release"}
    gone = {s.name.split("-")[0] for s in alone.stages if s.name not in names(twin)}
    assert gone == {"study/model.L1.resid_post.topk.w1024.k16.stability", "release/fixed"}


def test_keys_do_not_hang_on_pythons_hash_seed(fixed, tmp_path):
    (tmp_path / "s.yaml").write_text(fixed)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from sae_cli.plan.graph import build\nfrom sae_cli.spec.load import load\n"
        "print([s.name for s in build(load(Path('s.yaml'))).stages])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


MINE = """\
name: mine
model: mine
models: {mine: {path: MODEL}}
data: {sources: [{path: TEXT}]}
matrix: {layer: [1]}
"""


@pytest.fixture
def local(tmp_path):
    """A model folder and a text file of one's own, and the sweep that names them."""
    model, text = tmp_path / "a" / "model", tmp_path / "a" / "text.jsonl"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"n_layer": 2, "n_embd": 16, "n_head": 2}')
    (model / "model.safetensors").write_bytes(b"weights")
    text.write_text('{"text": "a"}\n')
    return model, text, MINE.replace("MODEL", str(model)).replace("TEXT", str(text))


def test_a_path_moves_no_key(local, graph, tmp_path):
    model, text, sweep = local
    before = names(graph(sweep))
    (tmp_path / "b").mkdir()
    model.rename(tmp_path / "b" / "model")
    text.rename(tmp_path / "b" / "renamed.jsonl")
    there = sweep.replace("/a/model", "/b/model").replace("/a/text.jsonl", "/b/renamed.jsonl")
    assert names(graph(there)) == before


def test_a_relative_path_is_the_same_as_an_absolute_one(local, graph, tmp_path, monkeypatch):
    *_, sweep = local
    monkeypatch.chdir(tmp_path)
    assert names(graph(sweep)) == names(graph(sweep.replace(f"{tmp_path}/", "")))


def test_what_stands_in_a_file_moves_all_keys(local, graph):
    model, text, sweep = local
    before = graph(sweep)
    text.write_text('{"text": "b"}\n')
    assert moved(before, graph(sweep)) == set(KINDS) - {"study"}
    text.write_text('{"text": "a"}\n')
    assert names(graph(sweep)) == names(before)
    (model / "model.safetensors").write_bytes(b"other!!")
    assert moved(before, graph(sweep)) == set(KINDS) - {"study"}


def test_the_names_of_a_folders_files_count_and_hidden_ones_do_not(local, graph):
    model, _, sweep = local
    before = names(graph(sweep))
    (model / ".cache").mkdir()
    (model / ".cache" / "x").write_text("x")
    assert names(graph(sweep)) == before
    (model / "config.json").rename(model / "config.json.old")
    (model / "config.json").write_text((model / "config.json.old").read_text())
    assert names(graph(sweep)) != before


def test_the_embedded_model_and_its_text_are_pinned_by_digest(graph):
    made = graph("name: x\nmatrix: {layer: [1]}\n")
    (tokens,) = made.of("tokens")
    assert len(tokens.work.model.digest) == len(tokens.work.data.sources[0].digest) == 64
    assert tokens.work.model.path is None


@pytest.mark.parametrize(
    ("block", "group"), [("{project: p}", "fixed"), ("{project: p, group: g}", "g")]
)
def test_tracked_runs_stand_under_their_sweep_unless_it_says_otherwise(graph, fixed, block, group):
    trains = graph(fixed, f"wandb={block}").of("train")
    assert {stage.work.wandb.group for stage in trains} == {group}
