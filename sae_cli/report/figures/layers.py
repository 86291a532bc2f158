"""Curves over the layers of each site, and the share of dead latents there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sae_cli.report.catalogue import meaning
from sae_cli.report.chart import CONTROL, Chart, Series
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
from sae_cli.report.scale import Axis

METRICS = ("fvu.pooled_v1", "ce.delta_v1", "ce_recovered.zero_v1")
DEAD = "dead_fraction_v1"
_MOST_TICKS = 12


def section(found: Sequence[Scored]) -> Section:
    """Faithfulness by layer; no chart where a sweep has a single layer."""
    charts = _charts(found, METRICS, least=2)
    return Section(
        "layers",
        "Layer by layer",
        "SAEs that differ in nothing but their layer are joined; hollow marks are the same SAEs of "
        "the model with random weights, where there are such controls.",
        tuple(charts),
        "The SAEs are of one layer: there is no curve to draw.",
    )


def dead(found: Sequence[Scored]) -> Section:
    """Dead latents by layer."""
    return Section(
        "dead",
        "Dead latents",
        "Latents that fired on none of the held-out tokens that count; some may fire on more.",
        tuple(_charts(found, (DEAD,), least=1)),
        "No evaluation counted dead latents.",
    )


def _charts(found: Sequence[Scored], metrics: Sequence[str], least: int) -> list[Chart]:
    charts = (
        _chart(metric, title, group, least)
        for title, group in by_site(found).items()
        for metric in metrics
    )
    return [chart for chart in charts if chart is not None]


def _chart(metric: str, title: str, group: Sequence[Scored], least: int) -> Chart | None:
    """A panel; None where fewer than `least` layers were measured."""
    about = meaning(metric)
    measured = [s for s in group if s.row.metrics.get(metric) is not None]
    layers = sorted({s.row.layer for s in measured})
    if len(layers) < least:
        return None
    call = naming([s.row for s in measured], layer=False)
    lines: dict[str, list[Scored]] = {}
    for each in sorted(measured, key=lambda s: s.row.layer):
        lines.setdefault(call(each.row), []).append(each)
    shown = few(list(lines))
    return Chart(
        name=name_of("layers" if metric != DEAD else "dead", metric, title),
        title=f"{about.label}: {title}",
        text=f"{about.label} by layer of {len(shown)} kinds of SAE at {title}, "
        f"layers {layers[0]} to {layers[-1]}.",
        x=Axis(
            "layer, from 0",
            ticks=tuple(few(layers, _MOST_TICKS)),
            low=layers[0] - 0.5,
            high=layers[-1] + 0.5,
        ),
        y=Axis(axis_label(metric), low=0.0 if metric == DEAD else None),
        series=(
            *(_line(kind, lines[kind], metric, i) for i, kind in enumerate(shown)),
            *_random(lines, shown, metric),
        ),
        left_out=left_out(len(shown), len(lines)),
    )


def _random(lines: dict[str, list[Scored]], shown: Sequence[str], metric: str) -> Iterator[Series]:
    """The controls on a random model of the SAEs that are shown, a line for each kind."""
    for i, kind in enumerate(shown):
        points = tuple(
            (each.row.layer, value)
            for each in lines[kind]
            for part in each.beside
            if metric in part.measured and (value := part.measured[metric].value) is not None
        )
        if points:
            label = "control: random_model" + (f" {kind}" if len(shown) > 1 else "")
            yield Series(
                label,
                points,
                CONTROL - i,
                line=True,
                hollow=True,
                dashed=True,
                tips=tuple(
                    f"{label}\nlayer {x}, {meaning(metric).label} {meaning(metric).told(y)}"
                    for x, y in points
                ),
            )


def _line(label: str, mine: Sequence[Scored], metric: str, style: int) -> Series:
    values = [s.row.metrics[metric] for s in mine]
    return Series(
        label=label,
        points=tuple((s.row.layer, v) for s, v in zip(mine, values, strict=True) if v is not None),
        style=style,
        line=True,
        tips=tuple(
            f"{s.row.slug}\n{meaning(metric).label} {meaning(metric).told(v)}"
            for s, v in zip(mine, values, strict=True)
        ),
    )
