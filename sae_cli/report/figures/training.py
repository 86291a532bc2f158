"""Training curves from each training's metrics.jsonl, thinned to what a screen can show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sae_cli.report.chart import Chart, Series
from sae_cli.report.figures.facets import (
    Section,
    by_place,
    few,
    left_out,
    name_of,
    naming,
    wide_span,
)
from sae_cli.report.gather import Scored
from sae_cli.report.scale import Axis

POINTS = 100
"""Of a curve, at most."""


def section(found: Sequence[Scored]) -> Section:
    """A panel for each place whose SAEs left a curve."""
    charts = [c for title, group in by_place(found).items() if (c := _chart(title, group))]
    return Section(
        "training",
        "Training",
        "FVU of each batch as it was trained on, on normalised activations; the table's is of "
        "held-out text.",
        tuple(charts),
        "No training left a curve.",
    )


def _chart(title: str, group: Sequence[Scored]) -> Chart | None:
    chosen = few(group)
    curves = [(s, points) for s in chosen if (points := read(s.curve))]
    if not curves:
        return None
    call = naming([s.row for s in group])
    values = [y for _, points in curves for _, y in points]
    return Chart(
        name=name_of("training", title),
        title=title,
        text=f"FVU over tokens of training, of {len(curves)} SAEs at {title}.",
        x=Axis("tokens seen", low=0.0),
        y=Axis("FVU of the batch ↓ less is better", log=wide_span(values, 5.0)),
        series=tuple(
            Series(call(s.row), tuple(points), i, line=True, marks=False)
            for i, (s, points) in enumerate(curves)
        ),
        left_out=left_out(len(chosen), len(group)),
    )


def read(path: Path) -> list[tuple[float, float]]:
    """Tokens and FVU, thinned, the last line among them; nothing where there is no such file.

    It is a log that no digest covers: a line that can't be read ends the curve.
    """
    if not path.is_file():
        return []
    points = []
    for line in path.read_bytes().splitlines():
        try:
            found = json.loads(line)
            points.append((float(found["tokens"]), float(found["fvu"])))
        except (ValueError, KeyError, TypeError):
            break
    return few(points, POINTS)
