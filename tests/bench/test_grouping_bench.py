"""The bench of grouping compares bits, counts forwards, and fails loudly where bits differ."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SWEEP = {
    "name": "few",
    "data": {"tokens": 8192, "heldout_tokens": 1024, "context": 64},
    "train": {"arch": "topk", "k": 8, "width": 64, "num_tokens": 2048, "batch_size": 512},
    "eval": {"batch_tokens": 512},
    "matrix": {"layer": [1], "site": ["mlp_out", "resid_post"], "k": [4, 8]},
}


@pytest.fixture
def grouping(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import grouping

    return grouping


@pytest.mark.slow
def test_forwards_and_bytes_of_both_ways_are_told(tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text(json.dumps(SWEEP))
    command = [sys.executable, str(ROOT / "bench/grouping.py"), "--sweep", tmp_path / "few.yaml"]
    said = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert "sha256 of 4 SAEs and 4 metrics.json: the same" in said
    row = r"^(train|eval) +(grouped|one at a time) +[\d.]+ s +(\d+) forwards +([\d.]+) MB read$"
    found = {(k, w): (int(n), float(mb)) for k, w, n, mb in re.findall(row, said, re.MULTILINE)}
    batches, checks = 2, 2  # edits of mlp_out begin behind one layer, of resid_post behind two
    assert found["eval", "grouped"][0] == batches * (1 + 2 * 2 + 4) + checks, said
    assert found["eval", "one at a time"][0] == 4 * (batches * (1 + 2 + 1) + 1), said
    assert found["train", "grouped"][1] < found["train", "one at a time"][1], said


def test_other_bits_end_the_bench(grouping: ModuleType) -> None:
    same = {"train/a": "0", "eval/a": "1"}
    grouping.compare({"grouped": same, "one at a time": dict(same)}, 1)
    with pytest.raises(SystemExit, match="DIFFERENT BITS: eval/a"):
        grouping.compare({"grouped": same, "one at a time": same | {"eval/a": "2"}}, 1)
    with pytest.raises(SystemExit, match="files are missing"):
        grouping.compare({"grouped": same, "one at a time": {}}, 1)
