"""Studies by the real command: made beside the evaluation, in the table, made once."""

from __future__ import annotations

import json
from pathlib import Path

from realcommand import Disk, Saectl

SWEEP = """\
name: studied
model: tiny
data: {tokens: 8192, heldout_tokens: 4096, context: 64}
train: {width: 64, num_tokens: 8192, batch_size: 512, shuffle_tokens: 4096}
eval: {batch_tokens: 1024}
studies:
  truth: {tokens: 4096, heldout_tokens: 4096, fewest: 20}
  stability: {}
  localisation: {k: [1, 4], pairs: 8, heldout_pairs: 8, draws: 2, pca_tokens: 1024}
matrix: {layer: [2], site: [resid_post], k: [8], seed: [0, 1]}
"""
OWN = {
    "truth": {"truth.f1_v1", "truth.auroc_v1", "truth.wins_neurons_v1", "truth.wins_random_v1"},
    "stability": {"stability.mmcs_v1", "stability.shared_v1", "stability.matched_v1"},
    "localisation": {"localisation.full_v1", "localisation.half_v1"},
}


def test_truth_stability_and_localisation_of_two_seeds(saectl: Saectl, tmp_path: Path) -> None:
    sweep = tmp_path / "studied.yaml"
    sweep.write_text(SWEEP, encoding="utf-8")
    saectl("run", sweep)
    places = sorted(saectl.store.glob("study/*"))
    assert len(places) == 2 * len(OWN)
    for place in places:
        record = json.loads((place / "study.json").read_text())
        own = [f for f in record["figures"] if f["control"] is None and f["slice"] == "kept"]
        assert {f["metric"] for f in own} == OWN[record["study"]]
        assert all((f["value"] is None) == (f["reason"] is not None) for f in record["figures"])
        if record["study"] == "stability":
            assert len(record["detail"]["twins"]) == 1
    rows = [json.loads(line) for line in (saectl.store / "runs/studied/results.jsonl").open()]
    studied = [row for row in rows if row["metric"].split(".")[0] in OWN]
    assert {row["run_id"] for row in studied} == {place.name[-8:] for place in places}
    assert {row["metric"] for row in studied if not row["control_of"]} > set().union(*OWN.values())
    page = (saectl.store / "runs/studied/report.html").read_text(encoding="utf-8")
    assert all(f'<section id="{study}"' in page for study in OWN)
    (release,) = saectl.store.glob("release/*/studied")
    for folder in (p for p in release.iterdir() if p.is_dir()):
        assert json.loads((folder / "studies.json").read_text()).keys() == OWN.keys()
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "| `truth.f1_v1 kept` |" in card and "localisation is causal" in card
    saectl("verify", release, "--samples", "1024")
    done = Disk(saectl.store).done("study")
    saectl("run", sweep)
    assert Disk(saectl.store).done("study") == done, "nothing was made again"
