"""L0 against what it buys: one panel per place and metric, Pareto front and controls drawn in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from sae_cli.report.catalogue import meaning
from sae_cli.report.chart import CONTROL, FRONT, PALETTE, Chart, Series, styles
from sae_cli.report.figures.facets import (
    Section,
    axis_label,
    by_place,
    name_of,
    naming,
    wide_span,
)
from sae_cli.report.gather import Scored
from sae_cli.report.pareto import COST, METRICS, fronts
from sae_cli.report.results import SaeRow
from sae_cli.report.scale import Axis

_WIDE = 8.0


def section(found: Sequence[Scored]) -> Section:
    """The panels, place by place."""
    charts = [
        chart
        for title, group in by_place(found).items()
        for metric in METRICS
        if (chart := _chart(metric, title, group)) is not None
    ]
    return Section(
        "sparsity",
        "Sparsity against faithfulness",
        "Each mark is an SAE. The grey line joins those that no other of the same place beats in "
        "both; hollow marks are controls, bars confidence intervals.",
        tuple(charts),
        "No SAE has both L0 and one of these metrics.",
    )


def _chart(metric: str, title: str, group: Sequence[Scored]) -> Chart | None:
    shown = [s for s in group if _at(s, metric) is not None]
    if not shown:
        return None
    rows = [s.row for s in shown]
    series = [*_fronts(rows, metric), *_controls(shown, metric), *_saes(shown, metric)]
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    about = meaning(metric)
    best = [key for f in fronts(rows, metric) for key in f.train_keys]
    return Chart(
        name=name_of("sparsity", metric, title),
        title=f"{about.label}: {title}",
        text=f"{about.label} over L0 of {len(shown)} SAEs at {title}; "
        f"{len(best)} of them on the Pareto front.",
        x=Axis("L0, latents per token", log=wide_span(xs, _WIDE)),
        y=Axis(
            axis_label(metric), log=about.direction == "down" and wide_span(ys, _WIDE)
        ),
        series=tuple(series),
    )  # fmt: skip


def _at(scored: Scored, metric: str) -> tuple[float, float] | None:
    x, y = scored.row.metrics.get(COST), scored.row.metrics.get(metric)
    return None if x is None or y is None else (x, y)


def _saes(shown: Sequence[Scored], metric: str) -> Iterator[Series]:
    rows = [s.row for s in shown]
    call = _kinds(rows)
    colours = styles([call(r) for r in rows])
    for label, style in colours.items():
        mine = [s for s in shown if call(s.row) == label]
        points = [p for s in mine if (p := _at(s, metric)) is not None]
        yield Series(
            label=label,
            points=tuple(points),
            style=style,
            tips=tuple(
                f"{s.row.slug}\nL0 {meaning(COST).told(x)}, {meaning(metric).label} "
                f"{meaning(metric).told(y)}"
                for s, (x, y) in zip(mine, points, strict=True)
            ),
            bars=tuple(s.measured[metric].interval for s in mine),
        )


def _kinds(rows: Sequence[SaeRow]) -> Callable[[SaeRow], str]:
    """What a colour stands for: architecture and width, if that many can be told apart."""
    plain = [r.model_copy(update={"variant": ""}) for r in rows]
    call = naming(plain, layer=False)
    if len({call(r) for r in plain}) > PALETTE:
        return lambda r: r.arch
    return lambda r: call(r.model_copy(update={"variant": ""}))


def _fronts(rows: Sequence[SaeRow], metric: str) -> Iterator[Series]:
    for front in fronts(rows, metric):
        yield Series(
            label="Pareto front",
            points=tuple(zip(front.costs, front.values, strict=True)),
            style=FRONT,
            line=True,
            marks=False,
        )


def _controls(shown: Sequence[Scored], metric: str) -> Iterator[Series]:
    """What stands beside the SAEs, each kind as one line over L0; the same, beside two, once."""
    marks = {
        (str(part.control["name"]), x.value, y.value)
        for scored in shown
        for part in scored.controls
        if part.control is not None
        if (x := part.measured.get(COST)) is not None and x.value is not None
        if (y := part.measured.get(metric)) is not None and y.value is not None
    }
    for i, (kind, some) in enumerate(groupby(sorted(marks), key=lambda m: m[0])):
        points = tuple((x, y) for _, x, y in some)
        yield Series(
            label=f"control: {kind}",
            points=points,
            style=CONTROL - i,
            line=True,
            dashed=True,
            hollow=True,
            tips=tuple(
                f"control: {kind}\nL0 {meaning(COST).told(x)}, {meaning(metric).label} "
                f"{meaning(metric).told(y)}"
                for x, y in points
            ),
        )
