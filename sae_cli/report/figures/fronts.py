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
        "both; hollow marks are controls.",
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
            bars=tuple(_interval(s, metric) for s in mine),
        )


def _kinds(rows: Sequence[SaeRow]) -> Callable[[SaeRow], str]:
    """What a colour stands for: architecture and width, if that many can be told apart."""
    plain = [r.model_copy(update={"variant": ""}) for r in rows]
    call = naming(plain, layer=False)
    if len({call(r) for r in plain}) > PALETTE:
        return lambda r: r.arch
    return lambda r: call(r.model_copy(update={"variant": ""}))


def _interval(scored: Scored, metric: str) -> tuple[float, float] | None:
    more = scored.measured()[metric].more
    low, high = more.get("ci_low"), more.get("ci_high")
    return None if low is None or high is None else (low, high)


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
    """Rows of an evaluation that are controls of its SAE: each kind one line, over L0."""
    marks: list[tuple[str, float, float]] = []
    for scored in shown:
        own = scored.row.metrics[COST]
        rows = [
            r for r in scored.further() if r.get("control_of") and r.get("slice", "all") == "all"
        ]
        l0 = {_kind(r): r["value"] for r in rows if r["metric"] == COST}
        for row in rows:
            x = l0.get(_kind(row), own)
            if row["metric"] == metric and row["value"] is not None and x is not None:
                marks.append((_kind(row), x, row["value"]))
    for i, (kind, some) in enumerate(groupby(sorted(set(marks)), key=lambda m: m[0])):
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


def _kind(row: dict[str, object]) -> str:
    return str(row.get("arch", "unnamed"))
