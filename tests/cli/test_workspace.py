"""`plan`, `status`, `ls`, `show` and `gc` read what is on disk, and only `gc --yes` changes it."""

from __future__ import annotations

import json

import pytest

from sae_cli.cli.output import PlanOutput, RunOutput
from sae_cli.cli.session import open_sweeps, remember
from sae_cli.errors import FAILED, OK, USAGE, WORK_FOUND
from sae_cli.plan.place import folder
from sae_cli.spec.load import find
from sae_cli.spec.presets import shipped_folder
from sae_cli.spec.work import KINDS
from sae_cli.store.records.claim import claim
from sae_cli.store.records.ledger import record_failed


def tree(root):
    """Every file and folder below `root`, with what it holds and when it was last changed."""
    return {
        str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None)
        for p in root.rglob("*")
    }


@pytest.fixture
def unchanged(tmp_path):
    """Fails a test that changed anything in its folder (workspace, home and caches lie in it)."""
    before = []
    yield lambda: before.append(tree(tmp_path))
    assert before and tree(tmp_path) == before[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "small.yaml"),
        ("plan", "small.yaml", "--json"),
        ("plan", "qwen3-4b"),
        ("run", "small.yaml", "--dry-run"),
        ("train", "small.yaml", "-n", "--force"),
        ("status", "small.yaml"),
        ("validate", "small.yaml"),
        ("ls",),
        ("schema",),
    ],
)
@pytest.mark.parametrize("done", [(), ("tokens", "cache", "train")])
def test_a_look_changes_nothing(saectl, small, unchanged, arguments, done):
    small.finish(*done) if done else None
    unchanged()
    answer = saectl(*arguments)
    assert (answer.code, answer.err) == (OK, "")


def test_a_plan_says_what_would_happen_and_what_it_takes(saectl, small):
    small.finish("tokens")
    said = saectl("plan", "small.yaml").out
    lines = {line.split()[0]: line for line in said.splitlines() if line.split()[:1]}
    assert "skip" in lines["tokens"] and "done just now" in lines["tokens"]
    assert "never done; after cache" in lines["train"]
    assert said.splitlines()[-3].startswith("6 run, 1 skip; ")
    assert said.splitlines()[-2].startswith("total: ")


def test_plan_is_run_with_dry_run(saectl, small, monkeypatch):
    monkeypatch.setattr("sae_cli.plan.room.free_bytes", lambda _: 10**12)
    assert saectl("plan", "small.yaml").out == saectl("run", "small.yaml", "--dry-run").out


def test_a_plan_as_json_is_its_model(saectl, small):
    small.finish("tokens")
    out = saectl("plan", "small.yaml", "--json").out
    (plan,) = PlanOutput.model_validate_json(out).sweeps
    assert plan.sweep == "small" and plan.unpinned == ()
    assert [(s.kind, s.key) for s in plan.stages] == [(s.kind, s.key) for s in small.graph.stages]
    assert [s.action for s in plan.stages] == ["skip", *["run"] * 6]
    assert plan.stages[0].status == "done" and plan.stages[1].status == "absent"
    assert [s.path for s in plan.stages] == [
        str(folder(small.workspace, s).path.relative_to(small.spec.parent))
        for s in small.graph.stages
    ]


def test_a_plan_of_a_model_that_is_not_here_says_that_its_keys_are_provisional(saectl, small):
    answer = saectl("plan", "qwen3-4b")
    assert answer.code == OK
    assert "keys are provisional until a run pins model:Qwen/Qwen3-4B@main" in answer.out
    (plan,) = PlanOutput.model_validate_json(saectl("plan", "qwen3-4b", "--json").out).sweeps
    assert "dataset:HuggingFaceFW/fineweb-edu@main" in plan.unpinned


def test_the_store_is_the_flag_else_the_environment_else_here(saectl, small, monkeypatch):
    monkeypatch.setenv("SAECTL_STORE", "elsewhere")
    assert saectl("ls").out == "elsewhere: nothing there yet\n"
    assert saectl("ls", "--store", "flagged").out == "flagged: nothing there yet\n"


def test_check_tells_a_script_whether_work_is_left(saectl, small):
    assert saectl("status", "small.yaml", "--check").code == WORK_FOUND
    small.finish(*KINDS)
    assert saectl("status", "small.yaml", "--check").code == OK
    assert saectl("status", "--check").code == OK
    changed = saectl("status", "small.yaml", "--set", "eval.dense_threshold=0.3", "--check")
    assert changed.code == WORK_FOUND


def test_status_without_a_sweep_means_those_that_were_run(saectl, small):
    small.finish(*KINDS)
    assert "small: 7 of 7 stages done" in saectl("status").out
    (plan,) = PlanOutput.model_validate_json(saectl("status", "--json").out).sweeps
    assert {s.action for s in plan.stages} == {"skip"}


def test_status_says_who_runs_and_what_failed(saectl, small):
    small.finish("tokens", "cache")
    one, other = small.graph.of("train")
    with claim(folder(small.workspace, one)) as held:
        record_failed(held, "loss is NaN")
    with claim(folder(small.workspace, other)):
        said = saectl("status", "small.yaml").out
    assert "loss is NaN" in said and "(log: " in said
    assert "running" in said and "heard of just now" in said
    assert "small: 2 of 7 stages done" in said


@pytest.mark.parametrize("file", sorted(shipped_folder().glob("*.yaml")), ids=lambda p: p.stem)
@pytest.mark.filterwarnings("error")
def test_a_sweep_is_remembered_with_the_same_keys(small, file):
    model = "qwen3-1.7b" if file.stem == "any_model" else None
    sets = ["train.grad_clip=", "release.authors=[Ada, Grace]", "wandb={project: p}"]
    (opened,) = open_sweeps(find(file), model, sets, small.workspace, online=False)
    remember(opened.graph, small.workspace)
    (again,) = open_sweeps(None, None, None, small.workspace, online=False)
    assert [s.name for s in again.graph.stages] == [s.name for s in opened.graph.stages]


def test_a_remembered_sweep_outlives_its_file_and_its_text(saectl, small):
    (small.spec.parent / "text.txt").write_text("a text\n")
    local = "data.sources=[{path: text.txt}]"
    (opened,) = open_sweeps(small.spec, None, [local], small.workspace, online=False)
    remember(opened.graph, small.workspace)
    (small.spec.parent / "text.txt").unlink()
    small.spec.unlink()
    answer = saectl("status")
    assert (answer.code, answer.err) == (OK, "")
    assert all(s.key in answer.out for s in opened.graph.stages)


def test_run_of_a_finished_sweep_has_nothing_to_do(saectl, small):
    small.finish(*KINDS)
    answer = saectl("run", "small.yaml")
    assert answer.code == OK
    assert answer.out.startswith("small: nothing to do, 7 stages are done\n")
    (run,) = RunOutput.model_validate_json(saectl("run", "small.yaml", "--json").out).sweeps
    assert run.stages == () and [r.metrics["l0_v1"] for r in run.results] == [4.0, 4.0]
    assert run.release is not None and run.release.endswith("/small")


def test_only_what_cannot_start_is_refused_with_what_it_needs(saectl, small):
    answer = saectl("train", "small.yaml", "--only", "train")
    assert (answer.code, answer.out) == (FAILED, "")
    assert "which is not chosen" in answer.err and "--only" in answer.err
    assert not small.workspace.root.exists()


def test_ls_lists_what_is_there_by_kind(saectl, small):
    small.finish("tokens", "cache")
    said = saectl("ls").out
    assert said.index("tokens") < said.index("cache")
    assert all(s.key in said for s in small.graph.of("tokens", "cache"))
    assert small.graph.of("tokens")[0].key not in saectl("ls", "cache").out
    (line,) = json.loads(saectl("ls", "cache", "--json").out)["stages"]
    (cache,) = small.graph.of("cache")
    assert (line["key"], line["slug"], line["status"]) == (cache.key, cache.slug, "done")
    assert line["bytes"] >= 800


def test_show_takes_a_key_its_first_digits_or_a_name(saectl, small):
    small.finish(*KINDS)
    (cache,) = small.graph.of("cache")
    for name in (cache.key, cache.key[:5], cache.slug, cache.name, f"{cache.slug}-{cache.key}"):
        answer = saectl("show", name)
        assert answer.code == OK and answer.out.startswith(f"{cache.name}  done")
    record = json.loads(saectl("show", cache.key, "--json").out)
    assert record["spec"]["identity"]["layer"] == 1
    assert record["done"]["outputs"]["activations.zarr/chunk"]["bytes"] == 800


def test_show_of_a_name_that_two_stages_share_lists_both(saectl, small):
    small.finish(*KINDS)
    train = small.graph.of("train")[0]
    answer = saectl("show", train.slug)
    assert (answer.code, answer.out) == (USAGE, "")
    assert f"{train.slug} means more than one stage:" in answer.err
    assert f"train/{train.slug}-" in answer.err and f"eval/{train.slug}-" in answer.err


def test_show_guesses_at_a_misspelt_name(saectl, small):
    small.finish("tokens", "cache")
    answer = saectl("show", "tiny.L1.resid_pots")
    assert answer.code == USAGE
    assert "did you mean 'tiny.L1.resid_post'?" in answer.err and "saectl ls" in answer.err


def test_show_of_a_failure_says_its_cause(saectl, small):
    (tokens,) = small.graph.of("tokens")
    with claim(folder(small.workspace, tokens)) as held:
        record_failed(held, "the text ran dry")
    assert "cause: the text ran dry" in saectl("show", tokens.key).out


def test_gc_keeps_what_is_still_needed_and_asks_before_it_frees(saectl, small):
    small.finish("tokens", "cache")
    assert saectl("gc").out == "nothing to free\n"
    small.finish("train")
    place = folder(small.workspace, small.graph.of("cache")[0])
    asked = saectl("gc")
    assert asked.code == OK and "say --yes" in asked.out and place.activations.is_dir()
    freed = saectl("gc", "--yes")
    assert freed.code == OK and "freed 800 B" in freed.out
    assert not place.activations.exists() and place.done.is_file()
    assert saectl("gc", "--yes").out == "nothing to free\n"
    assert "its data was freed just now, nothing needs it" in saectl("plan", "small.yaml").out


def test_gc_of_one_sweep_keeps_what_another_needs(saectl, small):
    small.finish("tokens", "cache", "train")
    other = ["name=other", "matrix.k=[16]"]
    (opened,) = open_sweeps(small.spec, None, other, small.workspace, online=False)
    remember(opened.graph, small.workspace)
    assert saectl("gc", "small.yaml", "--yes").out == "nothing to free\n"
