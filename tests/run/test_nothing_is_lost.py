"""Nothing is deleted that can't be made again, or that is being read; and a redo that was broken
off is told for what it is.

A small sweep of a model in a folder, on a text in a file, is run once; each test changes a copy.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sae_cli.errors import FAILED, OK, Blocked
from sae_cli.lm.tiny import folder as tiny_folder
from sae_cli.lm.tiny import grammar
from sae_cli.plan.place import record_of
from sae_cli.stages.passes import Passes
from sae_cli.store.layout import Workspace
from sae_cli.store.records.claim import claim
from sae_cli.store.records.evict import evict
from sae_cli.store.records.ledger import former_summary, is_done, open_stage, read_done
from sae_cli.store.records.status import Status, state
from sae_cli.store.records.users import readers

SPEC = """\
name: small
model: mine
models: {mine: {path: model}}
data: {sources: [{path: text.jsonl, repeat: true}], tokens: 8192, heldout_tokens: 512, context: 64}
cache: {batch_tokens: 2048, chunk_bytes: 65_536, shard_bytes: 140_000, part_tokens: 2048}
train: {width: 64, num_tokens: 2048, batch_size: 512, shuffle_tokens: 2048}
eval: {batch_tokens: 1024}
matrix: {layer: [1], site: [resid_post], k: [8]}
"""
WEIGHTS = "model/model.safetensors"
DIARY = {"done.json", "log.txt", "metrics.jsonl", ".claim.lock"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which the sweep ran. Don't change it."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(tiny_folder(), root / "model")
    said = [grammar.document(77, i).text for i in range(800)]
    (root / "text.jsonl").write_text("".join(json.dumps({"text": s}) + "\n" for s in said))
    spec = SPEC.replace("text.jsonl", str(root / "text.jsonl"))
    (root / "small.yaml").write_text(spec.replace("path: model", f"path: {root / 'model'}"))
    ended = subprocess.run(
        [sys.executable, "-m", "sae_cli", "run", "small.yaml", "-q"],
        cwd=root, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == OK, ended.stderr
    return root


@pytest.fixture
def here(made, tmp_path, monkeypatch, clean_home):
    """The current folder: the workspace is a copy; the model and the text can be hidden."""
    shutil.copytree(made / "store", tmp_path / "store", symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield tmp_path
    for name in (WEIGHTS, "text.jsonl"):
        if (made / f"{name}.hidden").exists():
            unhide(made, name)


def hide(made, name):
    (made / name).rename(made / f"{name}.hidden")


def unhide(made, name):
    (made / f"{name}.hidden").rename(made / name)


def stage(kind):
    return next(Workspace(Path("store")).stages(kind))


def digests(root):
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name not in DIARY and "runs" not in p.parts
    }


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("kind", "victim", "source", "said"),
    [
        (
            "cache",
            "activations.zarr/acts/c.1.0",
            "model/model.safetensors",
            "no safetensors weights",
        ),
        ("cache", "stats.safetensors", WEIGHTS, "no safetensors weights"),
        ("tokens", "train.zarr/tokens/c.0.0", "text.jsonl", "text.jsonl"),
        ("eval", "metrics.json", WEIGHTS, "no safetensors weights"),
    ],
)
def test_a_repair_deletes_nothing_before_its_source_is_found_readable(
    saectl, here, made, kind, victim, source, said
):
    sound = digests(here / "store")
    place = stage(kind)
    flip(place.path / victim)
    damaged, done = digests(here / "store"), place.done.read_bytes()
    hide(made, source)
    answer = saectl("verify", "--repair")
    assert answer.code == FAILED and "not repaired" in answer.out and said in answer.out
    assert digests(here / "store") == damaged and place.done.read_bytes() == done
    unhide(made, source)
    answer = saectl("verify", "--repair")
    assert answer.code == OK and "same bytes" in answer.out
    assert digests(here / "store") == sound


@pytest.mark.parametrize(
    ("kind", "source"), [("cache", "tokens"), ("train", "cache"), ("eval", "train")]
)
def test_force_deletes_nothing_when_an_input_is_damaged(saectl, here, made, kind, source):
    place, read = stage(kind), stage(source)
    flip(read.path / sorted(read_done(read).outputs)[-1])
    before = digests(place.path)
    answer = saectl(kind, made / "small.yaml", "--only", kind, "--force", "-q")
    assert answer.code == FAILED and "does not match the sha256" in answer.err
    assert digests(place.path) == before and is_done(place)


def test_force_deletes_nothing_when_the_weights_are_gone(saectl, here, made, monkeypatch):
    def nothing(*_, **__):
        raise OSError("no answer")

    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", nothing)
    place = stage("cache")
    before = digests(place.path)
    answer = saectl("cache", made / "small.yaml", "--only", "cache", "--force", "-q")
    assert answer.code == FAILED and "could not be loaded" in answer.err
    assert digests(place.path) == before and is_done(place)


def broken_off(monkeypatch, after):
    """Captures end at once, as by a kill, after so many passes."""
    passes = iter(range(after))
    batch = Passes.batch

    def dying(self, b):
        if next(passes, None) is None:
            raise KeyboardInterrupt
        return batch(self, b)

    monkeypatch.setattr(Passes, "batch", dying)


def test_a_redo_of_freed_activations_that_was_broken_off_is_told_and_seen_to_its_end(
    saectl, here, made, monkeypatch
):
    spec = made / "small.yaml"
    sound, place = digests(here / "store" / "cache"), stage("cache")
    limit = read_done(place).summary["outlier_norm"]
    assert saectl("gc", "--yes").code == OK
    with monkeypatch.context() as patched:
        broken_off(patched, after=2)
        saectl("run", spec, "-q", "--set", "train.batch_size=256")
    assert state(place).status is Status.PENDING and not is_done(place)
    assert former_summary(place)["outlier_norm"] == limit
    said = saectl("status", spec).out
    assert "pending" in said and "evicted" not in said
    assert ": it is made again" in saectl("plan", spec).out

    answer = saectl("eval", spec, "--only", "eval", "--force")
    assert answer.code == FAILED and "Traceback" not in answer.err
    assert f"needs cache/{place.path.name}, which is not finished, and not chosen" in answer.err

    assert saectl("eval", spec, "--force", "-q").code == OK
    assert digests(here / "store" / "cache") == sound


def test_an_evaluation_beside_a_redo_says_so_and_not_what_python_says(here):
    from sae_cli.errors import StoreError
    from sae_cli.store.acts.array import stats_of

    place = stage("cache")
    place.stats.unlink()
    with pytest.raises(StoreError, match="is being captured again") as raised:
        stats_of(place)
    assert "saectl cache" in str(raised.value)


def test_cache_names_what_was_freed_and_how_to_capture_it_again(saectl, here, made):
    spec, place = made / "small.yaml", stage("cache")
    sound = digests(here / "store" / "cache")
    assert "freed" not in saectl("cache", spec).out
    assert saectl("gc", "--yes").code == OK
    said = saectl("cache", spec).out
    assert f"the activations of cache/{place.path.name} were freed by gc" in said
    assert "saectl cache SPEC --force" in said
    assert saectl("cache", spec, "--force", "-q").code == OK
    assert digests(here / "store" / "cache") == sound
    assert "freed" not in saectl("cache", spec).out


@pytest.fixture(params=["cache", "target"])
def training(here, request):
    """A training that no sweep of the workspace names reads the activations, or predicts them."""
    cache = stage("cache")
    deps = {request.param: cache.key, "tokens": stage("tokens").key}
    place = Workspace(Path("store")).stage_dir("train", "other", "0123abcd")
    with claim(place):
        open_stage(place, {"kind": "train", "version": 1, "identity": {}, "deps": deps})
        yield cache, place


def test_gc_keeps_what_a_running_training_reads(saectl, training):
    cache, train = training
    before = digests(cache.path)
    assert readers(cache) == [f"train/{train.path.name}"]
    assert readers(cache, ["eval"]) == []
    assert saectl("gc", "--yes").out == "nothing to free\n"
    with pytest.raises(Blocked, match="is being read by train/other-0123abcd"):
        evict(cache, cache.activation_data)
    assert is_done(cache)
    assert {n: d for n, d in digests(cache.path).items() if n != "claim"} == before


def test_force_waits_for_those_who_read(training, made, monkeypatch):
    from captures import Silent

    from sae_cli.cli.session import open_sweeps
    from sae_cli.plan.jobs import Job
    from sae_cli.run.base import run_job
    from sae_cli.run.context import Context

    cache, train = training
    workspace = Workspace(Path("store"))
    (opened,) = open_sweeps(made / "small.yaml", None, None, workspace, online=False)
    (captured,) = opened.graph.of("cache")
    assert record_of(captured)["deps"] == {"tokens": stage("tokens").key}
    before = digests(cache.path)
    context = Context(workspace, Silent(), "cpu", lambda: False, {captured.name})
    (result,) = run_job(Job((captured,)), context)
    assert (result.ending, train.path.name in result.cause) == ("busy", True)
    assert digests(cache.path) == before and is_done(cache)
    assert context.force == {captured.name}
