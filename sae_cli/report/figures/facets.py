"""Which SAEs share a panel, what a panel and a series are called, and how many are shown.

A panel holds what can be compared (one model, one site); names say only what differs. Where there
are more series than a reader can tell apart, an even choice is shown and the panel says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sae_cli.report.catalogue import meaning
from sae_cli.report.chart import PALETTE, Chart
from sae_cli.report.gather import Scored
from sae_cli.report.results import SaeRow
from sae_cli.store.key import slug

MOST_PANELS = 6
T = TypeVar("T")


@dataclass(frozen=True)
class Section:
    """A part of the report with its charts."""

    name: str
    title: str
    note: str
    """What to look at, in a sentence or two."""
    charts: tuple[Chart, ...]
    empty: str = ""
    """Why there is no chart, where there is none."""


def site_of(row: SaeRow) -> str:
    """Where an SAE reads and, of a transcoder, what it predicts."""
    return f"{row.site} to {row.out_site}" if row.out_site else row.site


def by_site(found: Sequence[Scored]) -> dict[str, list[Scored]]:
    """The SAEs of each site of each model, by a title for their panel."""
    several = len({s.row.model for s in found}) > 1
    return _grouped(found, lambda r: (f"{r.model}, " if several else "") + site_of(r))


def by_place(found: Sequence[Scored]) -> dict[str, list[Scored]]:
    """The SAEs of each (model, layer, site); of each site where those would be too many panels."""
    several = len({s.row.model for s in found}) > 1
    layers = len({s.row.layer for s in found}) > 1

    def title(row: SaeRow) -> str:
        model = f"{row.model}, " if several else ""
        return f"{model}{site_of(row)}" + (f", layer {row.layer}" if layers else "")

    groups = _grouped(found, title)
    return groups if len(groups) <= MOST_PANELS else by_site(found)


def _grouped(found: Sequence[Scored], title: Callable[[SaeRow], str]) -> dict[str, list[Scored]]:
    groups: dict[str, list[Scored]] = {}
    for each in found:
        groups.setdefault(title(each.row), []).append(each)
    return groups


def naming(rows: Sequence[SaeRow], *, layer: bool = True) -> Callable[[SaeRow], str]:
    """A function that calls each of these SAEs by what tells it from the others."""
    parts: list[tuple[str, Callable[[SaeRow], str]]] = [
        ("layer", lambda r: f"layer {r.layer}"),
        ("arch", lambda r: r.arch),
        ("width", lambda r: f"w{r.width}"),
        ("variant", lambda r: r.variant),
    ]
    used = [
        call
        for name, call in parts
        if (layer or name != "layer") and len({getattr(r, name) for r in rows}) > 1
    ]
    if not used:
        return lambda r: " ".join(filter(None, (r.arch, r.variant)))
    return lambda r: " ".join(filter(None, (call(r) for call in used)))


def few(items: Sequence[T], most: int = PALETTE) -> list[T]:
    """At most `most` of the items, evenly chosen, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def left_out(shown: int, of: int) -> str:
    """What a panel says of an even choice; nothing where all are shown."""
    return f"{shown} of {of} are shown, evenly chosen." if shown < of else ""


def axis_label(metric: str) -> str:
    """A metric on an axis: name, unit, and which way is better."""
    about = meaning(metric)
    arrow = {"down": " ↓ less is better", "up": " ↑ more is better", "none": ""}[about.direction]
    unit = f", {'share' if about.unit.startswith('share') else about.unit}" if about.unit else ""
    return f"{about.label}{unit}{arrow}"


def name_of(*words: str) -> str:
    """A name for a chart's file and element."""
    return slug("-".join(words).lower().replace(",", ""))


def wide_span(values: Sequence[float], ratio: float) -> bool:
    """Whether positive values span so much that only a logarithmic axis shows them."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > ratio
