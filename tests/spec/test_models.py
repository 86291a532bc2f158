"""A model's name is resolved, and its sizes are read, without network and without torch."""

from __future__ import annotations

import json

import pytest

from sae_cli.lm.tiny import folder
from sae_cli.spec.models import cached_snapshot, facts, local, resolve
from sae_cli.spec.presets import PRESETS, ModelFacts
from sae_cli.spec.problems import SpecProblems
from sae_cli.spec.stages import ModelSpec
from sae_cli.spec.sweep import SweepSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sweep(**models):
    return SweepSpec.model_validate({"name": "x", "models": models})


@pytest.fixture
def hub(clean_home):
    """A local cache of the hub that holds org/name, laid out as huggingface_hub lays it out."""
    repo = clean_home / "hub" / "models--org--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    sizes = {"num_hidden_layers": 5, "hidden_size": 96, "num_attention_heads": 4, "head_dim": 32}
    (snapshot / "config.json").write_text(json.dumps(sizes))
    return repo


def test_the_sweeps_own_names_come_before_presets_and_presets_before_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert resolve("tiny", sweep(), ()) == PRESETS["tiny"].model
    own = {"hf": "my/tiny"}
    assert resolve("tiny", sweep(tiny=own), ()).hf == "my/tiny"


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "org name/x", "org/na me", ""])
def test_what_is_no_model_at_all_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecProblems, match="is no preset"):
        resolve(name, sweep(), ("model",))


@pytest.mark.parametrize("name", ["./gone", "/gone/for/good", "~/gone", "~nobody-by-that-name/x"])
def test_what_looks_like_a_path_is_never_taken_for_a_hub_id(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecProblems, match="there is no folder"):
        resolve(name, sweep(), ("model",))


def test_a_home_that_is_nobodys_stays_as_it_was_written():
    assert str(local("~nobody-by-that-name/x")) == "~nobody-by-that-name/x"


def test_preset_sizes_of_the_embedded_model_are_those_of_its_config():
    read = json.loads((folder() / "config.json").read_text())
    assert ModelFacts.from_config(read) == PRESETS["tiny"].facts


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"n_layer": 12, "n_embd": 768, "n_head": 12}, (12, 768, 12, 64)),
        ({"num_layers": 6, "d_model": 512, "num_heads": 8}, (6, 512, 8, 64)),
        (
            {"model_type": "gemma3", "text_config": {"num_hidden_layers": 26, "hidden_size": 1152,
             "num_attention_heads": 4, "head_dim": 256}},
            (26, 1152, 4, 256),
        ),
        ({"text_config": None, "n_layer": 2, "n_embd": 8, "n_head": 2}, (2, 8, 2, 4)),
    ],
)  # fmt: skip
def test_sizes_are_read_under_the_names_that_configs_use(config, sizes):
    assert ModelFacts.from_config(config) == ModelFacts(*sizes)


def test_a_config_without_sizes_says_nothing():
    assert ModelFacts.from_config({"architectures": ["Odd"]}) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"odd": 1}'])
def test_a_config_that_is_not_one_leaves_the_sizes_unknown(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert facts(ModelSpec(path=str(tmp_path))) is None


def test_the_hubs_local_cache_is_read_where_its_settings_say(hub, monkeypatch, tmp_path):
    assert cached_snapshot("org/name", None) == hub / "snapshots" / COMMIT
    assert cached_snapshot("org/name", "main") == hub / "snapshots" / COMMIT
    assert cached_snapshot("org/name", COMMIT) == hub / "snapshots" / COMMIT
    assert cached_snapshot("org/name", "other") is None
    assert cached_snapshot("org/other", None) is None
    found = facts(ModelSpec(hf="org/name"))
    assert found == ModelFacts(5, 96, 4, 32) and found.d_in("attn_z") == 128

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nowhere"))
    assert cached_snapshot("org/name", None) is None
    monkeypatch.setenv("HF_HUB_CACHE", str(hub.parent))
    monkeypatch.delenv("HF_HOME")
    assert cached_snapshot("org/name", None) is not None


def test_the_settings_may_be_written_with_a_tilde_or_left_to_the_users_cache(hub, monkeypatch):
    home = hub.parents[1]
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.setenv("HF_HOME", f"~/{home.name}")
    assert cached_snapshot("org/name", None) is not None
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.parent / "cache"))
    assert cached_snapshot("org/name", None) is None
    (home.parent / "cache").mkdir()
    home.rename(home.parent / "cache" / "huggingface")
    assert cached_snapshot("org/name", None) is not None


def test_a_ref_whose_snapshot_is_gone_counts_as_absent(hub):
    (hub / "refs" / "main").write_text("f" * 40)
    assert cached_snapshot("org/name", None) is None


def test_sizes_that_are_not_here_are_fetched_once_if_the_caller_can(hub, tmp_path):
    from sae_cli.spec.load import load

    config = hub / "snapshots" / COMMIT / "config.json"
    text = config.read_text()
    config.unlink()
    asked = []

    def fetch(model):
        asked.append(model.hf)
        config.write_text(text)

    file = tmp_path / "s.yaml"
    file.write_text("name: s\nmodel: org/name\nmatrix: {depth: [0.5, 0.9], expansion: [2]}\n")
    assert [c.layer for c in load(file, fetch=fetch).cells] == [2, 4]
    assert asked == ["org/name"]
    load(file, fetch=fetch)
    assert asked == ["org/name"], "what is here is not asked for"


def test_a_model_folder_of_the_cache_unlocks_depth_and_expansion(hub, tmp_path):
    from sae_cli.spec.load import load

    file = tmp_path / "s.yaml"
    file.write_text("name: s\nmodel: org/name\nmatrix: {depth: [0.5], expansion: [2]}\n")
    (cell,) = load(file).cells
    assert (cell.layer, cell.train.width) == (2, 192)
