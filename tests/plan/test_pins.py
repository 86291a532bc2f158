"""Names are pinned to commits and digests; a plan reads pins, and only a run writes them."""

from __future__ import annotations

import json
import os

import pytest

from sae_cli.errors import DataError, SpecError, StoreError
from sae_cli.plan import pin
from sae_cli.plan.graph import build
from sae_cli.plan.pin import Pins, digest
from sae_cli.spec.load import load
from sae_cli.store import digests

OLD, NEW = "a" * 40, "b" * 40
HUB = """\
name: hub
model: org/name
data: {sources: [{hf: org/text}]}
train: {width: 64}
matrix: {layer: [1]}
"""


@pytest.fixture
def hub(clean_home):
    """The hub's local cache with org/name at its main branch."""

    def at(commit):
        repo = clean_home / "hub" / "models--org--name"
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / "main").write_text(commit)
        (repo / "snapshots" / commit).mkdir(parents=True, exist_ok=True)

    return at


@pytest.fixture
def pinned(tmp_path, workspace, clean_home):
    """`pinned(text, online)`: the model's and the first source's revision, and what has none."""

    def make(text=HUB, *, online=False):
        (tmp_path / "s.yaml").write_text(text)
        pins = Pins(workspace.root, online=online)
        sweep = pins.apply(load(tmp_path / "s.yaml"))
        (model,) = sweep.models.values()
        return model.revision, sweep.spec.data.sources[0].revision, pins.unpinned

    return make


def test_what_nobody_knows_stays_open_and_is_named(pinned, workspace):
    assert pinned() == (None, None, ["model:org/name@main", "dataset:org/text@main"])
    assert not workspace.root.exists()


def test_a_branch_in_the_local_cache_is_a_commit_without_network(hub, pinned, workspace):
    hub(OLD)
    assert pinned()[0] == OLD
    assert not workspace.root.exists(), "a plan writes nothing"


def test_a_run_keeps_its_pin_when_the_branch_moves(hub, pinned, workspace):
    hub(OLD)
    model_only = HUB.replace("hf: org/text", "builtin: tiny")
    assert pinned(model_only, online=True)[0] == OLD
    kept = json.loads((workspace.root / "pins.json").read_text())
    assert kept == {"model:org/name@main": OLD}
    hub(NEW)
    assert pinned(model_only, online=True)[0] == OLD
    assert pinned(model_only)[0] == OLD


def test_a_plan_foretells_the_keys_of_the_run(hub, tmp_path, workspace):
    hub(OLD)
    (tmp_path / "s.yaml").write_text(HUB.replace("hf: org/text", "builtin: tiny"))
    keys = [
        [
            s.key
            for s in build(Pins(workspace.root, online=go).apply(load(tmp_path / "s.yaml"))).stages
        ]
        for go in (False, True)
    ]
    assert keys[0] == keys[1]


def test_pins_hold_for_each_branch_and_kind_of_its_own(pinned, workspace):
    workspace.root.mkdir()
    pins = {"model:org/name@main": OLD, "model:org/name@dev": NEW, "dataset:org/text@main": NEW}
    (workspace.root / "pins.json").write_text(json.dumps(pins))
    assert pinned() == (OLD, NEW, [])
    dev = HUB.replace("model: org/name", "model: m\nmodels: {m: {hf: org/name, revision: dev}}")
    assert pinned(dev) == (NEW, NEW, [])


def test_a_whole_commit_needs_no_pin(pinned):
    text = HUB.replace(
        "model: org/name", f"model: m\nmodels: {{m: {{hf: org/name, revision: {OLD}}}}}"
    )
    text = text.replace("{hf: org/text}", f"{{hf: org/text, revision: {NEW}}}")
    assert pinned(text) == (OLD, NEW, [])


def test_damaged_pins_are_told_as_such(pinned, workspace):
    workspace.root.mkdir()
    (workspace.root / "pins.json").write_text('{"model:org')
    with pytest.raises(StoreError, match=r"pins\.json is damaged"):
        pinned()


def test_content_that_is_no_longer_what_a_sweep_was_pinned_to_is_refused(pinned, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("one")
    was = digest(text)
    spec = (
        f"name: x\ndata: {{sources: [{{path: {text}, digest: {was}}}]}}\nmatrix: {{layer: [1]}}\n"
    )
    pinned(spec, online=True)
    text.write_text("two")
    with pytest.raises(DataError, match="has changed since this sweep was pinned to it"):
        pinned(spec, online=True)


def test_a_look_at_a_pinned_sweep_needs_its_text_no_more(graph, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("one")
    spec = f"name: x\ndata: {{sources: [{{path: {text}}}]}}\nmatrix: {{layer: [1]}}\n"
    keys = [s.key for s in graph(spec).stages]
    was = spec.replace("text.txt", f"text.txt, digest: {digest(text)}")
    text.write_text("two")
    assert [s.key for s in graph(was).stages] == keys
    text.unlink()
    assert [s.key for s in graph(was).stages] == keys
    with pytest.raises(SpecError, match="there is no file or folder"):
        graph(spec)


def test_a_folder_without_files_has_nothing_to_pin(tmp_path):
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    (tmp_path / "empty" / ".git" / "config").write_text("x")
    with pytest.raises(DataError, match="no files there"):
        digest(tmp_path / "empty")


def test_large_content_is_remembered_until_it_changes(tmp_path, monkeypatch, clean_home):
    monkeypatch.setattr(pin, "_MEMO_FROM", 1)
    asked = []
    true_hash = digests.sha256_of

    def counted(path):
        asked.append(path)
        return true_hash(path)

    monkeypatch.setattr(digests, "sha256_of", counted)
    (tmp_path / "big").mkdir()
    file = tmp_path / "big" / "part"
    file.write_bytes(b"abc")
    first = digest(tmp_path / "big")
    assert digest(tmp_path / "big") == first and len(asked) == 1
    file.write_bytes(b"abd")
    os.utime(file, ns=(1, 1))
    assert digest(tmp_path / "big") != first and len(asked) == 2
    assert list((tmp_path / "home" / "cache").rglob("*.json")), "in the user's cache, nowhere else"


def test_small_content_is_read_each_time_and_leaves_no_trace(tmp_path, clean_home):
    (tmp_path / "small.txt").write_text("x")
    digest(tmp_path / "small.txt")
    assert not (tmp_path / "home").exists()


PROBED = """\
name: probed
train: {width: 64}
matrix: {layer: [1]}
studies: {probing: {tasks: [TASK]}}
"""


@pytest.fixture
def task(tmp_path, workspace, clean_home):
    """`task(text, online)`: what a data set to probe is pinned to, and the study's key."""

    def make(text, *, online=False):
        (tmp_path / "s.yaml").write_text(PROBED.replace("TASK", text))
        sweep = Pins(workspace.root, online=online).apply(load(tmp_path / "s.yaml"))
        (study,) = build(sweep).of("study")
        return sweep.spec.studies.probing.tasks[0], study.key

    return make


def test_texts_to_probe_are_pinned_by_their_content(task, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a", "label": 1}\n')
    there, key = task(f"{{path: {file}}}")
    assert there.digest == digest(file) and there.path == str(file)
    file.write_text('{"text": "a", "label": 0}\n')
    assert task(f"{{path: {file}}}")[1] != key
    assert len(task("{builtin: tiny}")[0].digest) == 64


def test_a_dataset_to_probe_is_pinned_to_its_commit(task, workspace):
    workspace.root.mkdir(parents=True)
    (workspace.root / "pins.json").write_text(json.dumps({"dataset:org/labels@main": OLD}))
    assert task("{hf: org/labels}")[0].revision == OLD


def test_the_package_of_data_sets_is_pinned_to_its_version(task, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [])
    assert task("{sae_probes: all}")[0].digest is None
    with pytest.raises(DataError, match="pip install --no-deps sae-probes"):
        task("{sae_probes: all}", online=True)
    (tmp_path / "sae_probes-0.4.2.dist-info").mkdir()
    (tmp_path / "sae_probes-0.4.2.dist-info" / "METADATA").write_text("Version: 0.4.2\n")
    # not syspath_prepend: what it puts back is the empty path
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    there, key = task("{sae_probes: all}", online=True)
    assert there.digest == "sae-probes 0.4.2" and task("{sae_probes: all}")[1] == key
    with pytest.raises(DataError, match=r"pip install --no-deps sae-probes==0\.4\.1"):
        task("{sae_probes: all, digest: sae-probes 0.4.1}", online=True)


def test_a_data_set_is_called_after_its_file_and_its_key_holds_the_name(task, tmp_path):
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    for file in (one, other):
        file.write_text('{"text": "a", "label": 1}\n')
    (there, key), (renamed, moved) = task(f"{{path: {one}}}"), task(f"{{path: {other}}}")
    assert (there.name, renamed.name) == ("one", "other") and key != moved
    assert task(f"{{path: {other}, name: one}}")[1] == key
