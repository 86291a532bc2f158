"""`saectl verify` on a release's folder, copied away from its workspace: files, cards, numbers."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_cli.store.weights import load_sae, save_sae

ONE, OTHER = "tiny.L1.resid_post.topk.w64.k8", "tiny.L1.mlp_out.topk.w64.k8"
SAES = 6


@pytest.fixture
def copied(finished: Any, tmp_path: Path) -> Path:
    """The release of the finished workspace, elsewhere."""
    (stage,) = finished.stages("release")
    shutil.copytree(stage / "small", tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def mend(folder: Path) -> None:
    """Make the manifest list what is there, as a forger would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, record in manifest["files"].items():
        data = (folder / name).read_bytes()
        record |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.write_text(json.dumps(manifest, indent=2))


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=2))


def test_each_sae_has_a_card_that_names_the_digests_of_its_files(copied: Path) -> None:
    folders = [p.parent for p in copied.glob("*/cfg.json")]
    assert len(folders) == SAES
    for folder in folders:
        card = (folder / "README.md").read_text()
        for file in folder.iterdir():
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            assert (f"`{digest}`" in card) == (file.name != "README.md"), file
        assert "| Hardware of training | cpu, 1 process |" in card
        mask = json.loads((folder / "cfg.json").read_text())["metadata"]["saectl"]["mask"]
        assert mask["special"] is True and mask["first_positions"] == 1


def test_a_sound_release_stands_and_its_numbers_come_out_again(saectl: Any, copied: Path) -> None:
    found = saectl.json("verify", copied, "--samples", "1024")
    assert found["ok"] and found["differences"] == found["cards"] == found["broken"] == []
    assert found["cards_checked"] == SAES + 1 and found["tokens"] == 1024
    assert {n["sae"] for n in found["numbers"]} == {
        p.parent.name for p in copied.glob("*/cfg.json")
    }
    assert all(n["low"] <= n["recorded"] <= n["high"] for n in found["numbers"])
    assert not saectl.store.exists()


@pytest.mark.parametrize("harm", ["changed", "missing", "extra"])
def test_a_file_that_is_not_as_listed_is_named(saectl: Any, copied: Path, harm: str) -> None:
    victim = copied / ONE / ("notes.md" if harm == "extra" else "sae_weights.safetensors")
    if harm == "missing":
        victim.unlink()
    else:
        data = victim.read_bytes() if harm == "changed" else b""
        victim.write_bytes(data[:-1] + b"?")
    found = saectl.json("verify", copied, code=1)
    name = f"{ONE}/{victim.name}"
    assert found["differences"] == [{"file": name, "what": harm}] and not found["numbers"]
    said = saectl("verify", copied, "--samples", "0", code=1).stdout
    assert f"{harm}: {name}\n" in said and "1 otherwise" in said


def test_a_card_that_was_touched_up_is_found_though_the_manifest_was_too(
    saectl: Any, copied: Path
) -> None:
    card = copied / ONE / "README.md"
    card.write_text(card.read_text().replace("| Authors | unknown |", "| Authors | me |"))
    mend(copied)
    found = saectl.json("verify", copied, "--samples", "0", code=1)
    assert found["differences"] == [] and found["cards"] == [f"{ONE}/README.md"]


def test_a_number_and_a_weight_that_were_changed_are_found_by_measuring(
    saectl: Any, copied: Path
) -> None:
    def better(record: Any) -> None:
        record["metrics"]["fvu.pooled_v1"]["value"] /= 2

    edit(copied / ONE / "metrics.json", better)
    held = load_sae(copied / OTHER)
    held.tensors["b_dec"] += 3.0
    save_sae(copied / OTHER, held.tensors, held.cfg)
    mend(copied)
    found = saectl.json("verify", copied, "--samples", "1024", code=1)
    wrong = {(n["sae"], n["metric"]) for n in found["numbers"] if not n["ok"]}
    assert (ONE, "fvu.pooled_v1") in wrong and (OTHER, "fvu.pooled_v1") in wrong
    assert {sae for sae, _ in wrong} == {ONE, OTHER}
    assert {m for sae, m in wrong if sae == ONE} == {"fvu.pooled_v1"}
    assert set(found["cards"]) == {"README.md", f"{ONE}/README.md", f"{OTHER}/README.md"}


def test_where_the_model_is_not_here_numbers_are_left_with_the_reason(
    saectl: Any, copied: Path
) -> None:
    def elsewhere(cfg: Any) -> None:
        cfg["metadata"]["saectl"]["model"] |= {
            "hf": "org/model",
            "builtin": None,
            "revision": "a" * 40,
        }

    for path in copied.glob("*/cfg.json"):
        edit(path, elsewhere)
    mend(copied)
    found = saectl.json("verify", copied, code=1)
    assert found["numbers"] == [] and "org/model is not on this machine" in found["why_no_numbers"]


def test_text_that_is_not_built_in_is_read_from_the_workspace_that_has_it(
    warm: Any, copied: Path
) -> None:
    def from_files(cfg: Any) -> None:
        cfg["metadata"]["saectl"]["data"]["sources"][0] |= {"builtin": None, "digest": "0"}

    for path in copied.glob("*/cfg.json"):
        edit(path, from_files)
    mend(copied)
    found = warm.json("verify", copied, "--samples", "512", code=1)
    assert len(found["numbers"]) == 8 * SAES and all(n["ok"] for n in found["numbers"])
    shutil.rmtree(warm.store / "tokens")
    found = warm.json("verify", copied, "--samples", "512", code=1)
    assert (
        "neither built in nor in" in found["why_no_numbers"]
        and "--store" in found["why_no_numbers"]
    )


def test_a_folder_that_is_no_release_is_bad_usage(saectl: Any, copied: Path) -> None:
    assert "neither a release nor a sweep" in saectl("verify", copied / ONE, code=2).stderr
    assert "is a release" in saectl("verify", copied, "--repair", code=2).stderr
    assert "--samples" in saectl("verify", "--samples", "9", code=2).stderr
    (copied / "manifest.json").write_text("{}")
    assert "lists no files" in saectl("verify", copied, code=1).stderr


@pytest.mark.parametrize(
    ("revision", "trusted"), [("/usr", True), ("main", False), ("0" * 40, False)]
)
def test_nothing_that_a_release_names_is_run(
    saectl: Any, copied: Path, revision: str, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever verifies a release does so because he does not trust it yet."""
    monkeypatch.chdir(copied.parent)  # transformers takes a name for a folder where there is one
    model, mark = copied / "model", copied.parent / "it-ran"
    model.mkdir()
    (model / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}})
    )
    (model / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Config: pass\n")
    evil = {"hf": "elsewhere/model", "builtin": None, "digest": None, "revision": revision}
    for cfg in copied.glob("*/cfg.json"):
        edit(cfg, lambda value: value["metadata"]["saectl"]["model"].update(
            evil, trust_remote_code=trusted))  # fmt: skip
    mend(copied)
    found = saectl.json("verify", copied, "--samples", "64", code=1)
    assert not found["numbers"] and found["why_no_numbers"]
    assert not mark.exists()


def test_an_sae_that_is_no_folder_of_the_release_is_refused(saectl: Any, copied: Path) -> None:
    edit(copied / "manifest.json", lambda m: m["saes"].update({"../elsewhere/x": {}}))
    assert "is no folder's name" in saectl("verify", copied, code=1).stderr
