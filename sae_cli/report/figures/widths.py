"""Error over the number of latents, both logarithmic, with the elbow ringed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sae_cli.report.catalogue import meaning
from sae_cli.report.chart import Chart, Ring, Series
from sae_cli.report.elbow import METRIC, Elbow, elbows
from sae_cli.report.figures.facets import (
    Section,
    axis_label,
    by_site,
    few,
    left_out,
    name_of,
    naming,
)
from sae_cli.report.gather import Scored
from sae_cli.report.results import SaeRow
from sae_cli.report.scale import Axis


def section(found: Sequence[Scored]) -> Section:
    """A panel for each site that has SAEs which differ in nothing but their width."""
    charts = [c for title, group in by_site(found).items() if (c := _chart(title, group))]
    return Section(
        "widths",
        "Width",
        "Where the curve bends most is the elbow, after which width pays less; it is marked where "
        "three widths or more were trained.",
        tuple(charts),
        "No two SAEs differ in nothing but their width.",
    )


def _chart(title: str, group: Sequence[Scored]) -> Chart | None:
    curves: dict[tuple[object, ...], list[SaeRow]] = {}
    for each in sorted(group, key=lambda s: s.row.width):
        row = each.row
        if (row.metrics.get(METRIC) or 0) > 0:
            curves.setdefault((row.layer, row.arch, row.variant), []).append(row)
    curves = {k: rows for k, rows in curves.items() if len({r.width for r in rows}) > 1}
    if not curves:
        return None
    same_width = [rows[0].model_copy(update={"width": 1}) for rows in curves.values()]
    call = naming(same_width)
    shown = few(list(curves))
    names = {k: call(curves[k][0].model_copy(update={"width": 1})) for k in shown}
    widths = sorted({r.width for k in shown for r in curves[k]})
    marked = [e for k in shown for e in elbows(curves[k]) if e.width is not None]
    about = meaning(METRIC)
    told = ", ".join(f"{e.width} at layer {e.layer} ({e.arch} {e.variant})" for e in marked)
    return Chart(
        name=name_of("widths", title),
        title=f"{about.label}: {title}",
        text=f"{about.label} over width at {title}, {len(shown)} curves; elbows: {told or 'none'}.",
        x=Axis("width, latents", log=True, ticks=tuple(map(float, widths))),
        y=Axis(axis_label(METRIC), log=True),
        series=tuple(
            Series(
                label=names[k],
                points=tuple((r.width, v) for r in curves[k] if (v := r.metrics[METRIC])),
                style=i,
                line=True,
                tips=tuple(
                    f"{r.slug}\n{about.label} {about.told(r.metrics[METRIC])}" for r in curves[k]
                ),
            )
            for i, k in enumerate(shown)
        ),
        rings=tuple(_rings(marked)),
        left_out=left_out(len(shown), len(curves)),
    )


def _rings(marked: Sequence[Elbow]) -> Iterator[Ring]:
    """A ring at each elbow; of those at one width, the highest says it, for words would overlap."""
    points = [(e.width, e.values[e.widths.index(e.width)]) for e in marked if e.width is not None]
    said = set[int]()
    for width, value in sorted(points, key=lambda p: -p[1]):
        yield Ring(width, value, "" if width in said else f"elbow {width}")
        said.add(width)
