"""The whole pipeline by its real command: what it prints, what it leaves, and what it skips."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

SAES = 6
BROKEN = "matrix.sae=[{arch: relu_l1, l1: 5, lr: 1.0e+30}, {arch: topk, k: 4}]"
MENDED = "matrix.sae=[{arch: relu_l1, l1: 5}, {arch: topk, k: 4}]"


def actions(plan: Any) -> dict[str, set[str]]:
    """What a plan, or a run, says of the stages of each kind."""
    found: dict[str, set[str]] = {}
    for line in plan["stages"]:
        found.setdefault(line["kind"], set()).add(line["action"])
    return found


def done_by(run: Any) -> list[str]:
    """Names of the stages that a run did."""
    return sorted(f"{s['kind']}/{s['slug']}" for s in run["stages"] if s["action"] == "done")


def test_a_cold_run_ends_with_a_row_per_sae_and_the_path_of_the_release(
    cold: Any, finished: Any, table: Any
) -> None:
    store, run = cold
    assert [row[1:5] for row in table(run.stdout)] == [
        [site, "1", arch, "64"]
        for site in ("resid_post", "mlp_out")
        for arch in ("topk", "relu_l1", "jumprelu")
    ]
    *_, last, page = run.stdout.splitlines()
    assert last.startswith("release: ") and page == f"report: {store / 'runs/small/report.html'}"
    release = Path(last.removeprefix("release: "))
    assert release.is_relative_to(store)
    assert len([p for p in release.iterdir() if p.is_dir()]) == SAES


def test_every_stage_is_done_with_true_digests_and_leaves_no_work_behind(finished: Any) -> None:
    count = {kind: len(finished.done(kind)) for kind in ("tokens", "cache", "train", "eval")}
    assert count == {"tokens": 1, "cache": 2, "train": SAES, "eval": SAES}
    assert len(finished.done("release")) == 1 and len(finished.stages()) == 16
    finished.verify()
    for stage in finished.stages():
        assert (stage / "spec.json").is_file() and (stage / "log.txt").is_file(), stage
        for stray in ("claim", "work", "failed.json"):
            assert not (stage / stray).exists(), stage / stray
        assert not list(stage.rglob("*.tmp")), stage


def test_the_view_of_a_sweep_links_to_every_stage(finished: Any) -> None:
    view = finished.root / "runs" / "small"
    links = [p for p in view.glob("*/*") if p.is_symlink()]
    assert {p.resolve() for p in links} == {p.resolve() for p in finished.stages()}
    assert not any(os.path.isabs(p.readlink()) for p in links)


def test_the_manifest_of_a_release_lists_every_file_with_its_digest(finished: Any) -> None:
    (release,) = finished.stages("release")
    folder = release / "small"
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    there = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    assert set(listed) == set(there) - {"manifest.json"}
    for name, record in listed.items():
        assert record["sha256"] == hashlib.sha256(there[name].read_bytes()).hexdigest()
    written = "".join(p.read_text() for p in there.values() if p.suffix in (".json", ".md"))
    assert str(finished.root) not in written, "a release names a path of this machine"


def test_a_second_run_finds_nothing_to_do_and_imports_no_torch(
    warm: Any, small: Path, disk: Any
) -> None:
    before = disk(warm.store).done()
    again = warm("run", small, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "nothing to do" in again.stdout and "release: " in again.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in again.stderr.splitlines()}
    assert "sae_cli.cli.app" in imported
    heavy = {"torch", "transformers", "datasets", "zarr", "wandb"}
    assert not heavy & {name.split(".")[0] for name in imported}
    assert disk(warm.store).done() == before
    assert warm.sweep("run", small)["stages"] == []


def test_looking_imports_no_torch_either_and_plan_touches_nothing(saectl: Any, small: Path) -> None:
    for words in (["plan", small], ["status", small], ["validate", small], ["ls"], ["--help"]):
        seen = saectl(*words, env={"PYTHONPROFILEIMPORTTIME": "1"}).stderr
        assert "| torch\n" not in seen and "import time" in seen, words
    assert not saectl.store.exists()


def test_json_of_a_run_holds_stages_results_and_release(warm: Any, small: Path) -> None:
    run = warm.sweep("run", small, "--force", "--only", "release")
    assert run["sweep"] == "small" and done_by(run) == ["release/small"]
    assert Path(run["release"]).is_dir()
    assert len(run["results"]) == SAES
    for row in run["results"]:
        assert row["metrics"]["l0_v1"] > 0 and Path(row["path"]).is_dir()


def test_the_stages_one_by_one_need_no_spec_once_the_sweep_is_known(
    warm: Any, small: Path, finished: Any, disk: Any, table: Any
) -> None:
    saectl = warm
    for name in ("cache", "train", "eval", "release", "runs"):
        shutil.rmtree(saectl.store / name)
    saectl("train", small, "-q")
    assert {kind for kind in ("train", "eval") if disk(saectl.store).done(kind)} == {"train"}
    status = saectl("status", "--check", code=3)
    assert "9 of 16 stages done" in status.stdout
    evaluated = saectl("eval", "--all")
    assert len(table(evaluated.stdout)) == SAES
    assert "release: " in saectl("release").stdout
    saectl("status", "--check")
    assert disk(saectl.store).artefacts() == finished.artefacts()


def test_ls_and_show_tell_what_is_there(warm: Any, finished: Any) -> None:
    listed = warm.json("ls")["stages"]
    assert {f"{s['kind']}/{s['slug']}-{s['key']}" for s in listed} == set(finished.done())
    assert all(s["status"] == "done" and s["bytes"] > 0 for s in listed)
    one = warm.json("ls", "cache")["stages"][0]
    shown = warm.json("show", one["key"])
    assert shown["slug"] == one["slug"] and shown["spec"]["kind"] == "cache"
    assert shown["done"]["outputs"].keys() >= {"commits.jsonl", "stats.safetensors"}
    text = warm("show", one["key"][:6]).stdout
    assert one["slug"] in text and "identity.layer" in text
    unknown = warm("show", "nothing-of-that-name", code=2)
    assert "no such stage" in unknown.stderr and "saectl ls" in unknown.stderr


def test_gc_frees_activations_and_a_later_need_brings_back_the_same_bits(
    warm: Any, small: Path, finished: Any, disk: Any
) -> None:
    before = disk(warm.store).artefacts()
    assert "would free" in warm("gc").stdout and disk(warm.store).artefacts() == before
    assert "freed" in warm("gc", "--yes").stdout
    for stage in disk(warm.store).stages("cache"):
        assert not (stage / "activations.zarr").exists() and (stage / "stats.safetensors").is_file()
    assert "nothing to free" in warm("gc").stdout
    plan = warm.sweep("plan", small)
    assert all(found == {"skip"} for found in actions(plan).values())
    assert all("freed" in s["reason"] for s in plan["stages"] if s["kind"] == "cache")
    assert "evicted" in warm("status").stdout
    assert "nothing to do" in warm("run", small).stdout

    forced = warm.sweep("train", small, "--force")
    assert len(done_by(forced)) == 2 + SAES
    assert disk(warm.store).artefacts() == before == finished.artefacts()
    assert disk(warm.store).results() == finished.results()


def test_forcing_training_alone_says_that_its_activations_are_gone(warm: Any, small: Path) -> None:
    warm("gc", "--yes")
    refused = warm("run", small, "--force", "--only", "train/*topk*", code=1)
    assert "cache/tiny.L1.resid_post" in refused.stderr


def test_an_edit_to_eval_moves_evaluation_and_release_alone(
    warm: Any, small: Path, finished: Any, disk: Any
) -> None:
    """And needs no activations: they may be gone."""
    warm("gc", "--yes")
    edit = ("--set", "eval.dense_threshold=0.2")
    plan = warm.sweep("plan", small, *edit)
    assert actions(plan) == {
        "tokens": {"skip"},
        "cache": {"skip"},
        "train": {"skip"},
        "eval": {"run"},
        "release": {"run"},
    }
    reasons = {s["reason"] for s in plan["stages"] if s["kind"] == "eval"}
    assert reasons == {"eval.dense_threshold: 0.1 -> 0.2"}
    run = warm.sweep("run", small, *edit)
    assert sorted({n.split("/")[0] for n in done_by(run)}) == ["eval", "release"]
    assert len(run["stages"]) == SAES + 1
    for kind in ("tokens", "cache", "train"):
        assert disk(warm.store).done(kind) == finished.done(kind)
    assert not list(warm.store.glob("cache/*/activations.zarr"))
    assert "nothing to do" in warm("run", small).stdout, "the work before the edit is still there"


def test_a_failed_cell_stops_the_run_and_says_why_and_where(
    warm: Any, small: Path, disk: Any
) -> None:
    failed = warm("run", small, "--set", BROKEN, code=1)
    assert "loss is" in failed.stderr and "lower train.lr" in failed.stderr
    (record,) = warm.store.glob("train/*/failed.json")
    cause = json.loads(record.read_text())
    assert cause["cause"] in failed.stderr and cause["log"] in failed.stderr
    assert "TrainingError" in Path(cause["log"]).read_text()
    sites = {
        path.parent.name.split(".k4-")[0] for path in warm.store.glob("train/*.k4-*/done.json")
    }
    assert len(sites) <= 1, "those that share its pass over the data go on, and nobody else"
    assert not list(warm.store.glob("eval/*.k4-*/done.json")), "it went on after the failure"
    plan = warm.sweep("plan", small, "--set", BROKEN)
    assert any(s["reason"].startswith("tries again") for s in plan["stages"])
    assert "failed" in warm("status").stdout


def test_keep_going_does_all_that_does_not_depend_on_the_failure(
    warm: Any, small: Path, table: Any
) -> None:
    run = warm("run", small, "--set", BROKEN, "--keep-going", code=1)
    assert len(list(warm.store.glob("train/*/failed.json"))) == 2
    assert len(list(warm.store.glob("eval/*.k4-*/done.json"))) == 2
    assert [row[3] for row in table(run.stdout)] == ["topk", "topk"]
    assert "release: " not in run.stdout
    ended = actions(warm.sweep("run", small, "--set", BROKEN, "--keep-going", code=1))
    assert ended["train"] == {"failed"} and ended["eval"] == ended["release"] == {"blocked"}
    mended = warm.sweep("run", small, "--set", MENDED)
    assert done_by(mended) == ["release/small"], "all else was there already"
    assert mended["release"] is not None


def test_verbose_shows_the_traceback_of_a_failure(warm: Any, small: Path) -> None:
    shown = warm.start("run", small, "--set", BROKEN, "-v").communicate()[0]
    assert "Traceback" in shown and "TrainingError" in shown


def test_only_does_what_it_names_and_no_more(saectl: Any, small: Path, disk: Any) -> None:
    refused = saectl("run", small, "--only", "train/*mlp_out.topk*", code=1)
    assert "needs" in refused.stderr and "cache/tiny.L1.mlp_out" in refused.stderr
    assert not disk(saectl.store).stages("train")
    typo = saectl("run", small, "--only", "tiny.L1.mlp_out.topk.w64.k9", code=2)
    assert "did you mean" in typo.stderr and "tiny.L1.mlp_out.topk.w64.k8" in typo.stderr
    run = saectl.sweep("run", small, "--only", "tokens", "--only", "cache/*mlp_out")
    names = [n.split("/")[0] for n in done_by(run)]
    assert names == ["cache", "tokens"]


def test_force_does_the_named_stage_again_and_force_downstream_its_readers_too(
    warm: Any, small: Path, finished: Any, disk: Any
) -> None:
    only = ("--only", "train/*mlp_out.topk*")
    assert done_by(warm.sweep("run", small, *only)) == []
    forced = warm.sweep("run", small, *only, "--force")
    assert done_by(forced) == ["train/tiny.L1.mlp_out.topk.w64.k8"]
    both = warm.sweep("run", small, *only, "--force-downstream")
    assert done_by(both) == [
        "eval/tiny.L1.mlp_out.topk.w64.k8",
        "release/small",
        "train/tiny.L1.mlp_out.topk.w64.k8",
    ]
    assert disk(warm.store).artefacts() == finished.artefacts()
    (stage,) = warm.store.glob("train/*mlp_out.topk*")
    (old,) = finished.root.glob("train/*mlp_out.topk*")
    times = [json.loads((s / "done.json").read_text())["finished_at"] for s in (old, stage)]
    assert times[0] < times[1], "it was not done again"


def test_the_workspace_can_be_named_by_flag_which_wins_over_the_environment(
    warm: Any, small: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert "nothing there yet" in warm("ls", "--store", other).stdout
    assert "0 of 16 stages done" in warm("status", small, "--store", other).stdout
    assert "16 of 16 stages done" in warm("status", small).stdout
    assert not other.exists()
