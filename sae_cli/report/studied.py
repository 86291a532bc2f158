"""What studies found, as tables for a page: one a study, a row an SAE, its controls below it.

Shown are figures of all that counts, those by `k=`, and those of suppressed refusal, which are
marked so; rows by label, data set or strength are in the long table alone, for there are hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sae_cli.report.catalogue import KEPT, Meaning, meaning
from sae_cli.report.gather import Measured, Part, Scored
from sae_cli.spec.studies import STUDIES, StudyName

TITLES: dict[StudyName, str] = {
    "truth": "Labels of the grammar",
    "stability": "Stability across seeds",
    "localisation": "Patching the name",
    "probing": "Sparse probes",
    "explanations": "Explanations",
    "steering": "Refusal",
}
SUPPRESS = "suppress"
"""How slices begin that are of a model made to refuse less."""


@dataclass(frozen=True)
class Column:
    """One figure of a study."""

    metric: str
    slice: str

    @property
    def about(self) -> Meaning:
        """Its metric in words."""
        return meaning(self.metric)

    @property
    def head(self) -> str:
        """What stands above it."""
        return self.about.label if self.slice == KEPT else f"{self.about.label}, {self.slice}"


@dataclass(frozen=True)
class Line:
    """An SAE, or a control beside it."""

    name: str
    control: bool
    control_of: str | None
    """Of an SAE of a model with random weights: the one that it is a control of."""
    cells: tuple[Measured | None, ...]


@dataclass(frozen=True)
class Table:
    """One study of all SAEs of which it was made."""

    name: str
    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


def tables(found: Sequence[Scored]) -> list[Table]:
    """The tables of the studies that were made, in the order in which a sweep names them."""
    made = (_table(name, found) for name in STUDIES)
    return [table for table in made if table is not None]


def _table(study: StudyName, found: Sequence[Scored]) -> Table | None:
    parts = [(each, p) for each in found for p in each.parts if p.study and p.study.name == study]
    columns = dict.fromkeys(
        Column(metric, part.slice)
        for _, part in parts
        if part.slice == KEPT or part.slice.startswith(("k=", SUPPRESS))
        for metric in part.measured
    )
    if not columns:
        return None
    lines = []
    for each in found:
        own: dict[str | None, list[Part]] = {}
        for scored, part in parts:
            if scored is each:
                own.setdefault(_control(part), []).append(part)
        for control, some in own.items():
            name = control or each.id.removeprefix(f"{each.row.model}.")
            cells = tuple(_cell(column, some) for column in columns)
            lines.append(Line(name, control is not None, each.control_of, cells))
    return Table(study, TITLES[study], tuple(columns), tuple(lines))


def _control(part: Part) -> str | None:
    return None if part.control is None else str(part.control["name"])


def _cell(column: Column, parts: Sequence[Part]) -> Measured | None:
    return next(
        (p.measured[column.metric] for p in parts
         if p.slice == column.slice and column.metric in p.measured),
        None,
    )  # fmt: skip
