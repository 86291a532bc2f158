"""A sweep that asks for probes gets them from `saectl eval`, in its record and in the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from probes import jsonl, sentences
from realcommand import Disk, Saectl

from sae_cli.report.catalogue import CATALOGUE

SPEC = """\
name: probed
model: tiny
data: {tokens: 16_384, heldout_tokens: 2048, context: 64}
train: {width: 64, num_tokens: 16_384, batch_size: 512, shuffle_tokens: 4096}
matrix: {layer: [1], site: [resid_post], k: [4, 8]}
studies:
  probing: {train_texts: 120, test_texts: 30, strengths: [0.1, 100]TASKS}
"""


@pytest.mark.parametrize("tasks", ["", ", tasks: [{path: anchored.jsonl}]"])
def test_probes_stand_in_the_record_and_in_the_table(
    tasks: str, saectl: Saectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "anchored.jsonl", sentences(150))
    spec = tmp_path / "probed.yaml"
    spec.write_text(SPEC.replace("TASKS", tasks))
    saectl("eval", spec)
    names = ["anchored"] if tasks else [
        "harmful", "topic_kitchen", "topic_music", "topic_sea", "quote", "plural",
    ]  # fmt: skip
    studies = Disk(saectl.store).stages("study")
    assert len(studies) == 2
    lines = (saectl.store / "runs" / "probed" / "results.jsonl").read_text().splitlines()
    table = [json.loads(line) for line in lines]
    for stage in studies:
        record = json.loads((stage / "study.json").read_text())
        assert record["study"] == "probing" and [*record["detail"]["data_sets"]] == names
        means = {
            (f["control"], f["slice"]): f["value"]
            for f in record["figures"]
            if f["metric"] == "probing.auroc_v1" and "data=" not in f["slice"]
        }
        sizes = [f"k={k}" for k in (1, 2, 5, 16)]
        assert [*means] == [
            *((control, k) for control in (None, "neurons", "random") for k in sizes),
            ("all", "k=all"),
            ("majority", "k=0"),
        ]
        assert means["majority", "k=0"] == 0.5 < means[None, "k=16"] <= 1
        rows = [r for r in table if r["run_id"] == stage.name.rpartition("-")[2]]
        assert {r["metric"] for r in rows} == {m for m in CATALOGUE if m.startswith("probing.")}
        assert len(rows) == len(record["figures"]) == 3 * (3 * 4 + 2) * (1 + len(names))
    again = saectl("eval", spec)
    assert "nothing to do" in again.stdout + again.stderr
    if tasks:
        jsonl(tmp_path / "anchored.jsonl", sentences(150, seed=9))
        saectl("eval", spec)
        assert len(Disk(saectl.store).stages("study")) == 4, "other texts are another study"
