"""What the disk says of every evaluated SAE of a sweep, read once for tables and pages.

The records alone: done.json of evaluation and training, metrics.json, cfg.json, metrics.jsonl.
A file that is missing is an empty record, so what it would have said is unknown, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.place import folder
from sae_cli.report.results import SaeRow, row_of
from sae_cli.store.atomic import read_json
from sae_cli.store.layout import Workspace
from sae_cli.store.records.ledger import Done, read_done

METRICS, CONFIG = "metrics.json", "cfg.json"


@dataclass(frozen=True)
class Measured:
    """One number of an evaluation, or null and why."""

    value: float | None
    reason: str | None
    more: dict[str, Any]
    """What else the record says of it: an interval, a count."""


@dataclass(frozen=True)
class Scored:
    """An SAE, its evaluation, and their records."""

    train: Stage
    score: Stage
    row: SaeRow
    done: Done
    """Of the evaluation."""
    trained: Done | None
    """Of the training; None where its record is gone."""
    tokens: Done | None
    """Of the text; None where its record is gone."""
    record: dict[str, Any]
    """metrics.json."""
    config: dict[str, Any]
    """cfg.json."""
    curve: Path
    """metrics.jsonl of the training, whether it is there or not."""

    @property
    def id(self) -> str:
        """The SAE's name and key, as its folder is called."""
        return f"{self.train.slug}-{self.train.key}"

    def measured(self) -> dict[str, Measured]:
        """The SAE's own metrics on all tokens that count, by name."""
        return _measured(self.record, self.done)

    def further(self) -> list[dict[str, Any]]:
        """Rows beside the SAE's own on all tokens: slices and controls, as `rows` of metrics.json.

        Each names at least `metric` and `value`, and columns of the long table that differ from
        those of the SAE: `slice`, `control_of`, `arch`, `ci_low`, ...
        """
        rows: list[dict[str, Any]] = self.record.get("rows", [])
        return rows


def gather(graph: Graph, workspace: Workspace) -> list[Scored]:
    """The evaluated SAEs of a sweep, in the order of its cells. Raises StoreError for a damaged
    record."""
    return list(_each(graph, workspace))


def _each(graph: Graph, workspace: Workspace) -> Iterator[Scored]:
    evals = {s.deps["train"].name: s for s in graph.of("eval")}
    texts: dict[str, Done | None] = {}
    for cell, train in graph.cells:
        score = evals[train.name]
        place, sae, text = folder(workspace, score), folder(workspace, train), score.deps["tokens"]
        done = read_done(place)
        if done is None:
            continue
        if text.key not in texts:
            texts[text.key] = read_done(folder(workspace, text))
        record = read_json(place.path / METRICS) or {}
        values = {name: each.value for name, each in _measured(record, done).items()}
        yield Scored(
            train=train,
            score=score,
            row=row_of(cell.model, train, score, {"metrics": values}, workspace),
            done=done,
            trained=read_done(sae),
            tokens=texts[text.key],
            record=record,
            config=read_json(sae.path / CONFIG) or {},
            curve=sae.metrics,
        )


def _measured(record: dict[str, Any], done: Done) -> dict[str, Measured]:
    """By metrics.json; where that is gone, by the record's summary, which knows no reasons."""
    full = record.get("metrics")
    if not full:
        why = "the record gives no reason"
        plain = done.summary.get("metrics", {})
        return {n: Measured(v, None if v is not None else why, {}) for n, v in plain.items()}
    found = {}
    for name, each in full.items():
        more = {k: v for k, v in each.items() if k not in ("value", "reason")}
        found[name] = Measured(each["value"], each.get("reason"), more)
    return found
