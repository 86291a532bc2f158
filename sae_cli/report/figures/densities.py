"""How often latents fire: the histogram that each evaluation recorded, overlaid for a place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sae_cli.report.chart import Chart, Series
from sae_cli.report.figures.facets import Section, by_place, few, left_out, name_of, naming
from sae_cli.report.gather import Scored
from sae_cli.report.scale import Axis

HISTOGRAM = "density_histogram_v1"


def section(found: Sequence[Scored]) -> Section:
    """A panel for each place."""
    there = [s for s in found if s.record.get(HISTOGRAM)]
    charts = [_chart(title, group) for title, group in by_place(there).items()]
    return Section(
        "densities",
        "How often latents fire",
        "Latents by the share of tokens on which they fire, four bins a decade. Latents that never "
        "fired are not in the curve but in the table, as dead.",
        tuple(charts),
        "No evaluation recorded a histogram.",
    )


def _chart(title: str, group: Sequence[Scored]) -> Chart:
    call = naming([s.row for s in group])
    shown = few(group)
    edges: list[float] = shown[0].record[HISTOGRAM]["edges"]
    first = min(_first(s.record[HISTOGRAM]["counts"]) for s in shown)
    low = max(0, first - 1)
    return Chart(
        name=name_of("densities", title),
        title=title,
        text=f"Histograms of how often latents fire, of {len(shown)} SAEs at {title}.",
        x=Axis("share of tokens on which a latent fires", log=True, low=10 ** edges[low], high=1.0),
        y=Axis("share of latents in a bin", low=0.0),
        series=tuple(
            Series(
                call(s.row), _steps(s.record[HISTOGRAM], low), i, line=True, marks=False, step=True
            )
            for i, s in enumerate(shown)
        ),
        left_out=left_out(len(shown), len(group)),
    )


def _first(counts: Sequence[int]) -> int:
    return next((i for i, n in enumerate(counts) if n), len(counts) - 1)


def _steps(histogram: dict[str, Any], low: int) -> tuple[tuple[float, float], ...]:
    edges, counts = histogram["edges"], histogram["counts"]
    latents = sum(counts) + histogram["zero"] or 1
    bins = [(10.0 ** edges[i], counts[i] / latents) for i in range(low, len(counts))]
    return (*bins, (1.0, 0.0))
