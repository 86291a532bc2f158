"""What the disk says of every evaluated SAE of a sweep, read once for tables and pages.

The records alone: done.json of evaluation and training, metrics.json, cfg.json, metrics.jsonl.
A file that is missing is an empty record, so what it would have said is unknown, never guessed.
The form of metrics.json is that of `sae_cli.stages.eval_sae`; an evaluation of an earlier version
left parts of it out, and they are as good as unknown here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.place import folder
from sae_cli.report.catalogue import KEPT
from sae_cli.report.kin import RANDOM_MODEL, in_pairs, reinit_of
from sae_cli.report.results import SaeRow, id_of, row_of
from sae_cli.spec.work import StudyWork
from sae_cli.store.atomic import read_json
from sae_cli.store.layout import Workspace
from sae_cli.store.records.ledger import Done, read_done

METRICS, CONFIG, STUDY = "metrics.json", "cfg.json", "study.json"
_SILENT = "the record gives no reason"


@dataclass(frozen=True)
class Measured:
    """One number of an evaluation, or null and why."""

    value: float | None
    reason: str | None
    interval: tuple[float, float] | None = None
    """Its confidence interval, where there is one."""
    documents: int | None = None
    """That the interval was drawn from."""
    counted: int | None = None
    """Tokens, examples or labels that it is over, where that is not the part's."""


@dataclass(frozen=True)
class Part:
    """The numbers of one slice, of an SAE or of a control beside it."""

    slice: str
    control: Mapping[str, Any] | None
    """The control's record: `name`, `k`, `seed`; None for the SAE itself."""
    measured: dict[str, Measured]
    tokens: int | None
    predictions: int | None
    study: Studied | None = None
    """What found them, where that was no evaluation."""


@dataclass(frozen=True, eq=False)
class Studied:
    """A finished study of an SAE."""

    stage: Stage
    done: Done
    method: Mapping[str, Any]
    detail: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Which study."""
        assert isinstance(self.stage.work, StudyWork)
        return self.stage.work.study.study


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
    parts: tuple[Part, ...]
    """The SAE's own numbers on the kept tokens first, then its slices, controls and studies."""
    config: dict[str, Any]
    """cfg.json."""
    curve: Path
    """metrics.jsonl of the training, whether it is there or not."""
    beside: tuple[Part, ...] = ()
    """The numbers of SAEs of this sweep that are its controls, on the kept tokens."""

    @property
    def id(self) -> str:
        """The SAE's name and key, as its folder is called."""
        return id_of(self.train)

    @property
    def control_of(self) -> str | None:
        """The id of the SAE that this one, of a model with random weights, is a control of."""
        return self.row.control_of

    @property
    def measured(self) -> dict[str, Measured]:
        """The SAE's own metrics on the kept tokens, by name."""
        return self.parts[0].measured

    @property
    def controls(self) -> list[Part]:
        """What stands beside it on the kept tokens."""
        own = [p for p in self.parts if p.control and p.slice == KEPT and p.study is None]
        return [*own, *self.beside]

    @property
    def studies(self) -> list[Studied]:
        """Those that were made of it, in the order in which a sweep names them."""
        return list(dict.fromkeys(p.study for p in self.parts if p.study is not None))


def gather(graph: Graph, workspace: Workspace) -> list[Scored]:
    """The evaluated SAEs of a sweep, in the order of its cells, controls behind their SAE. Raises
    StoreError for a damaged record."""
    found = list(_each(graph, workspace))
    beside: dict[str, list[Part]] = {}
    for each in found:
        if each.control_of is not None:
            named = {"name": RANDOM_MODEL, "k": None, "seed": reinit_of(each.train)}
            beside.setdefault(each.control_of, []).append(replace(each.parts[0], control=named))
    return [replace(each, beside=tuple(beside.get(each.id, ()))) for each in found]


def proper(found: Iterable[Scored]) -> list[Scored]:
    """Those that are no control of another."""
    return [each for each in found if each.control_of is None]


def _each(graph: Graph, workspace: Workspace) -> Iterator[Scored]:
    evals = {s.deps["train"].name: s for s in graph.of("eval")}
    texts: dict[str, Done | None] = {}
    studies: dict[str, list[Stage]] = {}
    for study in graph.of("study"):
        studies.setdefault(study.deps["train"].name, []).append(study)
    for cell, train, like in in_pairs(graph):
        score = evals[train.name]
        place, sae, text = folder(workspace, score), folder(workspace, train), score.deps["tokens"]
        done = read_done(place)
        if done is None:
            continue
        if text.key not in texts:
            texts[text.key] = read_done(folder(workspace, text))
        record = read_json(place.path / METRICS) or {}
        found = [_studied(stage, workspace) for stage in studies.get(train.name, ())]
        parts = (*_parts(record, done), *(part for some in found for part in some))
        values = {name: each.value for name, each in parts[0].measured.items()}
        yield Scored(
            train=train,
            score=score,
            row=row_of(cell.model, train, like, score, {"metrics": values}, workspace),
            done=done,
            trained=read_done(sae),
            tokens=texts[text.key],
            record=record,
            parts=parts,
            config=read_json(sae.path / CONFIG) or {},
            curve=sae.metrics,
        )


def _parts(record: Mapping[str, Any], done: Done) -> Iterator[Part]:
    """By metrics.json; where that is gone, by the record's summary, which knows no reasons."""
    if not record.get("metrics"):
        plain = done.summary.get("metrics", {})
        found = {n: Measured(v, None if v is not None else _SILENT) for n, v in plain.items()}
        yield Part(KEPT, None, found, None, None)
        return
    yield from _slices(record, None)
    for control in record.get("controls", ()):
        yield from _slices(control, control)


def _studied(stage: Stage, workspace: Workspace) -> list[Part]:
    """The figures of a study by slice and control, in their order; none where it is not done."""
    place = folder(workspace, stage)
    done = read_done(place)
    record = read_json(place.path / STUDY) if done is not None else None
    if done is None or not record:
        return []
    study = Studied(stage, done, record["method"], record["detail"])
    parts: dict[tuple[str, str | None, int | None], dict[str, Measured]] = {}
    for figure in record["figures"]:
        key = figure["slice"], figure["control"], figure["seed"]
        parts.setdefault(key, {})[figure["metric"]] = _figure(figure)
    return [
        Part(
            name,
            None if control is None else {"name": control, "k": None, "seed": seed},
            found,
            None,
            None,
            study,
        )
        for (name, control, seed), found in parts.items()
    ]


def _figure(figure: Mapping[str, Any]) -> Measured:
    low, high = figure["low"], figure["high"]
    ends = None if low is None or high is None else (low, high)
    return Measured(figure["value"], figure["reason"], ends, figure["docs"], figure["n"])


def _slices(record: Mapping[str, Any], control: Mapping[str, Any] | None) -> Iterator[Part]:
    others = {n: part for n, part in record.get("slices", {}).items() if n != KEPT}
    for name, part in {KEPT: record, **others}.items():
        ends = part.get("intervals", {})
        found = {n: _measured(m, ends.get(n)) for n, m in part["metrics"].items()}
        yield Part(name, control, found, part.get("tokens"), part.get("predictions"))


def _measured(metric: Mapping[str, Any], ends: Mapping[str, Any] | None) -> Measured:
    ends = ends or {}
    low, high = ends.get("low"), ends.get("high")
    value, reason = metric["value"], metric.get("reason")
    if low is None or high is None:
        return Measured(value, reason)
    return Measured(value, reason, (low, high), ends.get("n_docs"))
