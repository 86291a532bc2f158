"""The report's charts as files: `plots/*.svg`, and `plots/*.png` where resvg is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sae_cli.report.chart import Chart
from sae_cli.report.files import put
from sae_cli.report.palette import LIGHT, stylesheet
from sae_cli.report.svg import draw

ZOOM = 3
"""Pixels of a PNG for a unit of its drawing."""


def write_plots(charts: Sequence[Chart], folder: Path) -> tuple[list[Path], str]:
    """Write them and return their paths, and why there is no PNG where there is none.

    Files of charts that the report no longer has go. Raises StoreError when one can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths, css = [], stylesheet(LIGHT)
    rasterize = _rasterizer()
    for chart in charts:
        drawing = draw(chart, titled=True, css=css)
        path = folder / f"{chart.name}.svg"
        changed = put(path, drawing.encode())
        paths.append(path)
        picture = path.with_name(f"{chart.name}.png")
        if rasterize is not None:
            if changed or not picture.is_file():
                put(picture, bytes(rasterize(svg_string=drawing, zoom=ZOOM)))
            paths.append(picture)
        elif changed:
            picture.unlink(missing_ok=True)  # it would show other numbers
    for stray in (*folder.glob("*.svg"), *folder.glob("*.png")):
        if stray.with_suffix(".svg") not in paths:
            stray.unlink()
    return paths, "" if rasterize else "no PNG files: pip install 'saectl[plots]'"


def _rasterizer() -> Callable[..., bytes] | None:
    """What turns a drawing into a PNG; None where it is not installed."""
    try:
        from resvg_py import svg_to_bytes
    except ModuleNotFoundError:
        return None
    found: Callable[..., bytes] = svg_to_bytes
    return found
