"""What studies have found of single features, read from their records, whoever made them.

In a workspace a record is `study.json` of a finished study of the SAE; in a release's folder it is
`studies.json`. Nothing of a study's code is needed: what a record does not say is not shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sae_cli.store.atomic import read_json
from sae_cli.store.layout import Workspace
from sae_cli.store.records.ledger import is_done

RECORD, RELEASED = "study.json", "studies.json"
Notes = dict[int, dict[str, Any]]
NAMES = ("latent", "feature", "latents", "features")
"""What a record of single features may call them."""


def found(folder: Path, key: str | None, workspace: Workspace) -> tuple[Notes, dict[str, str]]:
    """Notes by feature, and why there are none, by kind: `explanation`, `label`, `steering`.

    `folder` is the SAE's, `key` that of its training, whose studies may be in `workspace`.
    """
    records = dict(_records(folder, key, workspace))
    notes: Notes = defaultdict(dict)
    for feature, note in _explanations(records.get("explanations")):
        notes[feature].setdefault("explanations", []).append(note)
    for feature, note in _labels(records.get("truth")):
        notes[feature].setdefault("labels", []).append(note)
    for feature, note in _named(_detail(records.get("steering"))):
        notes[feature].setdefault("steering", []).append(note)
    for note in notes.values():
        note.get("labels", []).sort(key=lambda each: -each["f1"])
    kinds = {"explanations": "explanations", "labels": "truth", "steering": "steering"}
    lacking = {
        kind: f"there is no study of this SAE that is called {study}"
        for kind, study in kinds.items()
        if study not in records
    }
    return dict(notes), lacking


def _records(folder: Path, key: str | None, workspace: Workspace) -> Iterator[tuple[str, Any]]:
    released = read_json(folder / RELEASED)
    if isinstance(released, dict):
        yield from released.items()
    for place in workspace.stages("study"):
        spec = read_json(place.spec) if is_done(place) else None
        deps = spec.get("deps", {}) if isinstance(spec, dict) else {}
        if key is None or not isinstance(deps, dict) or deps.get("train") != key:
            continue
        record = read_json(place.path / RECORD)
        if isinstance(record, dict):
            yield str(record.get("study")), record


def _detail(record: Any) -> Any:
    return record.get("detail", {}) if isinstance(record, Mapping) else {}


def _explanations(record: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """A language model's first, where there is one."""
    method = record.get("method", {}) if isinstance(record, Mapping) else {}
    for each in _detail(record).get("latents", ()):
        judged = each.get("judge") or {}
        for by, said in ((method.get("judge_model"), judged), ("patterns of tokens", each)):
            text = said.get("explanation")
            if text:
                yield each["latent"], {"text": str(text), "by": by or "a language model",
                                       **_scores(said)}  # fmt: skip


def _scores(said: Mapping[str, Any]) -> dict[str, Any]:
    """`detection` and `fuzzing`: balanced accuracies on held-out windows, null where there were too
    few."""
    return {
        protocol: (said.get(protocol) or {}).get("balanced_accuracy")
        for protocol in ("detection", "fuzzing")
    }


def _labels(record: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """The labels that each feature is the best one for, with F1 and threshold on held-out text."""
    for each in _detail(record).get("latents", ()):
        best = each.get("f1") or {}
        if isinstance(best.get("feature"), int) and isinstance(best.get("heldout"), int | float):
            yield best["feature"], {"label": str(each["label"]), "f1": float(best["heldout"]),
                                    "threshold": best.get("threshold")}  # fmt: skip


def _named(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Whatever is said in one breath with the number of a feature: plain values only."""
    if isinstance(value, Mapping):
        for name in NAMES:
            numbers = value.get(name)
            some: list[Any] = numbers if isinstance(numbers, list) else [numbers]
            if some and all(isinstance(n, int) and not isinstance(n, bool) for n in some):
                said = {k: v for k, v in value.items() if k not in NAMES and _plain(v)}
                together = {"together with": list(some)} if len(some) > 1 else {}
                yield from ((n, {**said, **together}) for n in some if said)
                break
        for inner in value.values():
            yield from _named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner)


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
