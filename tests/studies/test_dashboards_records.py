"""Records of studies are read for what they say of single features, whoever wrote them."""

from __future__ import annotations

from pathlib import Path

from sae_cli.store.atomic import write_json
from sae_cli.store.layout import Workspace
from sae_cli.studies.dashboards.records import found


def test_explanations_labels_and_steering_are_found_by_feature(tmp_path: Path) -> None:
    write_json(tmp_path / "studies.json", {
        "explanations": {"method": {"judge_model": "a judge"}, "detail": {"latents": [
            {"latent": 3, "explanation": "on x", "detection": {"balanced_accuracy": 0.6},
             "fuzzing": None, "judge": {"explanation": "about x",
                                        "detection": {"balanced_accuracy": 0.9}}},
            {"latent": 4, "explanation": "", "detection": None, "fuzzing": None},
        ]}},
        "truth": {"detail": {"latents": [
            {"label": "topic=a", "f1": {"feature": 3, "heldout": 0.2, "threshold": 0.1}},
            {"label": "topic=b", "f1": {"feature": 3, "heldout": 0.8, "threshold": 0.1}},
        ], "neurons": [{"label": "topic=c", "f1": {"feature": 9, "heldout": 0.9}}]}},
        "steering": {"detail": {"chosen": {"features": [3, 5], "strength": 4.0},
                                "controls": [{"latent": 8, "rate": 0.0, "texts": ["t"]}]}},
    })  # fmt: skip
    notes, lacking = found(tmp_path, None, Workspace(tmp_path / "store"))
    assert [e["text"] for e in notes[3]["explanations"]] == ["about x", "on x"]
    assert [e["detection"] for e in notes[3]["explanations"]] == [0.9, 0.6]
    assert [e["label"] for e in notes[3]["labels"]] == ["topic=b", "topic=a"]
    assert notes[5]["steering"] == [{"strength": 4.0, "together with": [3, 5]}]
    assert notes[8] == {"steering": [{"rate": 0.0}]} and 9 not in notes and 4 not in notes
    assert lacking == {}
    assert set(found(tmp_path / "none", "k", Workspace(tmp_path))[1]) == {
        "explanations", "labels", "steering"}  # fmt: skip
