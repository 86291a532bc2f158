"""The real command looks into a text with SAEs of a workspace, of a release, and of other projects'
files: the same SAE says the same from wherever it is read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from realcommand import Disk, Saectl

TEXT = "please tell me how to attack the judge ."
SAE = "tiny.L1.resid_post.jumprelu.w64.l0_8"


@pytest.fixture
def there(command: Any, cold: tuple[Path, subprocess.CompletedProcess[str]]) -> Saectl:
    """The command in the workspace in which the small sweep ran."""
    found: Saectl = command(cold[0])
    return found


def released(disk: Disk) -> Path:
    (stage,) = disk.stages("release")
    return stage / "small"


def test_features_stand_beside_their_tokens_and_contributions_below(there: Saectl) -> None:
    said = there("inspect", SAE, "--text", TEXT, "--top", "3").stdout
    lines = said.splitlines()
    assert lines[0].startswith(f"{SAE}-") and "layer 1 resid_post of tiny" in lines[0]
    assert lines[1].split() == ["position", "token", "active", "strongest"]
    assert "does not count: special, first" in lines[2]
    assert [line.split()[:2] for line in lines[3:12]] == [
        [str(i), word] for i, word in enumerate(TEXT.split())
    ]
    assert "behind 8 '.' comes: " in said
    assert "contributions to the logit" in said and "by gradient" in said


def test_a_release_says_what_its_workspace_says(there: Saectl, finished: Disk) -> None:
    ours = there.json("inspect", SAE, "--text", TEXT)
    assert ours["version"] == 1 and len(ours["tokens"]) == 10 and ours["notes"] == []
    assert all(t["counts"] == (t["position"] >= 0) for t in ours["tokens"])
    assert ours["active"] == ours["tokens"][-1]["active"] == len(ours["contributions"]) > 0
    theirs = there.json("inspect", released(finished) / SAE, "--text", TEXT)
    for each in (ours, theirs):
        each.pop("sae")
    assert ours == theirs


def test_a_folder_of_many_is_answered_with_their_names(there: Saectl, finished: Disk) -> None:
    said = there("inspect", released(finished), "--text", TEXT, code=2).stderr
    assert "means more than one SAE" in said and str(released(finished) / SAE) in said


def test_a_text_from_a_file_and_a_chat(there: Saectl, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT + "\n")
    plain = there.json("inspect", SAE, "--file", tmp_path / "text")
    assert plain == there.json("inspect", SAE, "--text", TEXT)
    chat = there.json("inspect", SAE, "--file", tmp_path / "text", "--chat", "--token", "sorry")
    words = [t["text"] for t in chat["tokens"]]
    assert words[:3] == ["<|endoftext|>", "<|im_start|>", "user"] and words[-2] == "assistant"
    assert chat["target"]["text"] == "sorry"
    assert not chat["tokens"][1]["counts"] and chat["tokens"][1]["why_not"] == ["special"]


def test_what_a_terminal_would_obey_is_spelt_out(there: Saectl, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("<|im_start|>user\nhello")
    said = there("inspect", SAE, "--file", tmp_path / "text").stdout
    assert "\\n" in said and "\x1b" not in said


def test_a_name_that_means_none_is_answered_with_one_like_it(there: Saectl) -> None:
    said = there("inspect", SAE.replace("jump", "jum"), "--text", TEXT, code=2).stderr
    assert "no trained SAE in" in said and f"did you mean '{SAE}'?" in said


def test_an_imported_sae_says_what_it_said_where_it_came_from(
    there: Saectl, saectl: Saectl, finished: Disk, tmp_path: Path
) -> None:
    """Three SAEs of a place come back; one of them is the one that was asked before."""
    saectl("import", released(finished), "--format", "saelens", "--name", "back", "--out",
           tmp_path / "back.yaml")  # fmt: skip
    sets = ["data.tokens=16_384", "data.heldout_tokens=4096", "data.context=64",
            "cache.batch_tokens=2048", "cache.chunk_bytes=524_288"]  # fmt: skip
    saectl("train", tmp_path / "back.yaml", *(w for each in sets for w in ("--set", each)))
    names = [p.name for p in Disk(saectl.store).stages("train") if "resid_post" in p.name]
    ours = there.json("inspect", SAE, "--text", TEXT)
    found = [saectl.json("inspect", name, "--text", TEXT) for name in names]
    assert len(found) == 3
    (same,) = [f for f in found if f["tokens"] == ours["tokens"]]
    assert same["contributions"] == ours["contributions"]
    assert same["sae"].startswith("tiny.L1.resid_post.imported")


TRANSCODER = """\
name: transcoder
data: {tokens: 4096, heldout_tokens: 1024, context: 64}
train: {width: 64, num_tokens: 4096, batch_size: 512, shuffle_tokens: 1024}
matrix: {layer: [1], site: [mlp_in], sae: [{arch: topk, k: 8, out_site: mlp_out, skip: true}]}
"""


def test_a_transcoder_says_where_it_writes(saectl: Saectl, tmp_path: Path) -> None:
    (tmp_path / "transcoder.yaml").write_text(TRANSCODER)
    saectl("train", tmp_path / "transcoder.yaml")
    (place,) = Disk(saectl.store).stages("train")
    found = saectl.json("inspect", place.name, "--text", TEXT)
    assert (found["site"], found["out_site"]) == ("mlp_in", "mlp_out")
    assert found["active"] == 8 == len(found["contributions"])
    assert "what it writes to mlp_out" in found["notes"][0]
    assert json.loads((place / "cfg.json").read_text())["d_out"] == 64
