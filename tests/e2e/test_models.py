"""Models and texts that are not the embedded ones: local folders, files, chat, refusals."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SPEC = """
name: local
data:
  sources: [{path: TEXT}]
  tokens: 8192
  heldout_tokens: 2048
  context: 32
cache: {batch_tokens: 1024, chunk_bytes: 131_072}
train: {arch: topk, k: 4, width: 64, num_tokens: 8192, batch_size: 256, shuffle_tokens: 2048}
eval: {batch_tokens: 512}
matrix:
  layer: [1]
  site: [resid_post, mlp_out, attn_out, attn_z]
"""
SITES = ("resid_post", "mlp_out", "attn_out", "attn_z")
# kind of model -> width of attn_z (n_heads * head_dim), module of attn_z's projection
MODELS = {
    "llama": (32, "model.layers.1.self_attn.o_proj"),
    "gpt2": (32, "transformer.h.1.attn.c_proj"),
    "neox-parallel": (32, "gpt_neox.layers.1.attention.dense"),
    "qwen3": (64, "model.layers.1.self_attn.o_proj"),
}


@pytest.fixture(scope="module")
def model(
    build: Callable[..., Any], words: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """model(kind): the folder of a random three-layer model with its tokenizer."""
    shelf = tmp_path_factory.mktemp("models")

    def make(kind: str) -> Path:
        folder = shelf / kind
        if not folder.exists():
            build(kind).save_pretrained(folder)
            words.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jsonl file of 400 documents, some 16,000 tokens, in words that every model here knows."""
    dice = random.Random(4)
    path = tmp_path_factory.mktemp("text") / "documents.jsonl"

    def said(low: int, high: int) -> str:
        return " ".join(
            f"w{min(int(dice.expovariate(0.05)), 79)}" for _ in range(dice.randint(low, high))
        )

    rows = [
        {
            "text": said(20, 60),
            "chat": [
                {"role": "user", "content": said(5, 10)},
                {"role": "assistant", "content": said(20, 40)},
            ],
        }
        for _ in range(400)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def spec(text: Path, tmp_path: Path) -> Path:
    """A sweep over that text, which names no model."""
    path = tmp_path / "local.yaml"
    path.write_text(SPEC.replace("TEXT", str(text)))
    return path


@pytest.mark.parametrize("kind", MODELS)
def test_a_local_model_goes_through_the_whole_pipeline(
    saectl: Any, spec: Path, model: Callable[[str], Path], kind: str
) -> None:
    wide, projection = MODELS[kind]
    run = saectl.sweep("run", spec, "--model", model(kind))
    assert [row["site"] for row in run["results"]] == list(SITES)
    for row in run["results"]:
        assert row["metrics"]["l0_v1"] == pytest.approx(4, abs=0.01)
        assert 0 < row["metrics"]["fvu.pooled_v1"] < 1
        assert row["metrics"]["ce.spliced_v1"] > 0
    configs = {}
    for path in Path(run["release"]).glob("*/cfg.json"):
        cfg = json.loads(path.read_text())
        configs[cfg["metadata"]["saectl"]["site"]] = cfg
    assert {site: cfg["d_in"] for site, cfg in configs.items()} == {
        "resid_post": 32,
        "mlp_out": 32,
        "attn_out": 32,
        "attn_z": wide,
    }
    assert configs["attn_z"]["metadata"]["hf_hook_name"] == projection
    assert all(cfg["metadata"]["model_name"] == kind for cfg in configs.values())
    assert "nothing to do" in saectl("run", spec, "--model", model(kind)).stdout


def test_a_model_can_be_named_in_the_spec_and_moved(
    saectl: Any, spec: Path, model: Callable[[str], Path], tmp_path: Path
) -> None:
    """The key holds what is in the folder, not where it is."""
    folder = tmp_path / "first"
    folder.symlink_to(model("llama"), target_is_directory=True)
    named = spec.read_text() + f"model: mine\nmodels: {{mine: {{path: {folder}}}}}\n"
    spec.write_text(named)
    first = saectl.sweep("plan", spec)
    moved = folder.rename(tmp_path / "second")
    spec.write_text(named.replace(str(folder), str(moved)))
    keys = [
        [line["key"] for line in plan["stages"]] for plan in (first, saectl.sweep("plan", spec))
    ]
    assert keys[0] == keys[1]
    spec.write_text(named)
    gone = saectl("plan", spec, code=2)
    assert f"there is no folder {folder}" in gone.stderr and f"{spec}:" in gone.stderr


def test_a_missing_site_is_an_error_that_lists_those_there_are_and_harms_no_other(
    saectl: Any, spec: Path, model: Callable[[str], Path]
) -> None:
    sites = ("--set", "matrix.site=[resid_post, resid_mid]", "--set", "data.tokens=4096")
    words = ("cache", spec, "--model", model("neox-parallel"), *sites)
    refused = saectl(*words, code=1)
    assert "no site resid_mid" in refused.stderr
    assert "resid_pre, resid_post, attn_out, attn_z, mlp_in, mlp_out" in refused.stderr
    (failed,) = saectl.store.glob("cache/*/failed.json")
    assert "resid_mid" in failed.parent.name
    (done,) = saectl.store.glob("cache/*/done.json")
    assert "resid_post" in done.parent.name


def test_a_layer_that_is_not_there_is_found_before_anything_runs(
    saectl: Any, spec: Path, model: Callable[[str], Path]
) -> None:
    beyond = saectl("run", spec, "--model", model("llama"), "--set", "matrix.layer=[3]", code=2)
    assert "layer" in beyond.stderr and "3" in beyond.stderr
    assert not saectl.store.exists()


def test_a_context_beyond_the_model_is_an_error_that_says_what_fits(
    saectl: Any, spec: Path, model: Callable[[str], Path]
) -> None:
    far = ("--set", "data.context=128", "--set", "matrix.site=[resid_post]")
    refused = saectl("cache", spec, "--model", model("llama"), *far, code=1)
    assert "the model was made for 64" in refused.stderr
    assert "data.context=64" in refused.stderr


def test_chat_documents_go_through_the_models_template(
    saectl: Any, spec: Path, text: Path, model: Callable[[str], Path], words: Any
) -> None:
    import numpy as np
    import zarr

    source = f"data.sources=[{{path: {text}, messages: chat}}]"
    only = ("--model", model("qwen3"), "--only", "tokens", "--set", source)
    saectl("run", spec, *only)
    (stage,) = saectl.store.glob("tokens/*")
    tokens = np.asarray(zarr.open_array(stage / "train.zarr" / "tokens", mode="r")[:])
    reasons = np.asarray(zarr.open_array(stage / "train.zarr" / "reasons", mode="r")[:])
    marks = {words.convert_tokens_to_ids(mark) for mark in ("<s>", "<e>", "<eos>")}
    shown = words.decode(tokens.reshape(-1)[:400])
    assert "<s> user w" in shown and "<s> assistant w" in shown and "nothink" in shown
    special = np.isin(tokens, list(marks))
    assert 0.02 < special.mean() < 0.5
    assert (reasons[special] & 1).all() and not (reasons[~special] & 1).any()


def test_a_text_that_runs_dry_says_how_much_there_was(
    saectl: Any, spec: Path, text: Path, model: Callable[[str], Path]
) -> None:
    more = ("--model", model("llama"), "--set", "data.tokens=80_000")
    dry = saectl("run", spec, *more, code=1)
    assert f"source {text} ran dry" in dry.stderr
    assert "of 80,000 train tokens (data.tokens)" in dry.stderr and "repeat: true" in dry.stderr
    assert not list(saectl.store.glob("cache/*/done.json"))
    assert "tries again" in saectl("plan", spec, *more).stdout


def test_a_file_that_changed_is_new_work_and_never_a_mixture(
    saectl: Any, spec: Path, text: Path, model: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_text(text.read_text())
    spec.write_text(spec.read_text().replace(str(text), str(copy)))
    only = (spec, "--model", model("llama"), "--only", "tokens")
    saectl("run", *only)
    assert "nothing to do" in saectl("run", *only).stdout
    copy.write_text(copy.read_text().replace("w7 ", "w8 "))
    plan = saectl.sweep("plan", *only)
    assert plan["stages"][0]["action"] == "run" and "digest" in plan["stages"][0]["reason"]
    recorded = saectl("eval", "--all", code=1)
    assert "has changed since this sweep was pinned" in recorded.stderr


def test_a_folder_that_is_no_model_is_refused_with_its_place_in_the_spec(
    saectl: Any, spec: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    refused = saectl("plan", spec, "--model", tmp_path / "empty", code=2)
    assert "without config.json" in refused.stderr
    unknown = saectl("plan", spec, "--model", "tinny", code=2)
    assert "did you mean 'tiny'" in unknown.stderr
