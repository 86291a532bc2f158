"""The report's charts as files: `plots/*.svg`, and `plots/*.png` where resvg is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sae_cli.report.chart import Chart
from sae_cli.report.files import put
from sae_cli.report.palette import LIGHT, stylesheet
from sae_cli.report.svg import draw

ZOOM = 3
"""Pixels of a PNG for a unit of its drawing."""
FAMILIES = ("DejaVu Sans", "Liberation Sans", "Noto Sans", "Arial", "Helvetica", "Segoe UI")
"""Fonts of PNG files, the first that is installed: an SVG leaves that to who shows it."""
_LETTER = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20">'
    '<text y="15" font-family="sans-serif">{}</text></svg>'
)


def write_plots(charts: Sequence[Chart], folder: Path) -> tuple[list[Path], str]:
    """Write them and return their paths, and why there is no PNG where there is none.

    Files of charts that the report no longer has go. Raises StoreError when one can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths, css = [], stylesheet(LIGHT)
    rasterize, why = _rasterizer()
    for chart in charts:
        drawing = draw(chart, titled=True, css=css)
        path = folder / f"{chart.name}.svg"
        changed = put(path, drawing.encode())
        paths.append(path)
        picture = path.with_name(f"{chart.name}.png")
        if rasterize is not None:
            if changed or not picture.is_file():
                put(picture, rasterize(drawing))
            paths.append(picture)
        elif changed:
            picture.unlink(missing_ok=True)  # it would show other numbers
    for stray in (*folder.glob("*.svg"), *folder.glob("*.png")):
        if stray.with_suffix(".svg") not in paths:
            stray.unlink()
    return paths, why


def _rasterizer() -> tuple[Callable[[str], bytes] | None, str]:
    """What turns a drawing into a PNG, or None and why: no library, or no font that it could write
    with."""
    try:
        from resvg_py import svg_to_bytes
    except ModuleNotFoundError:
        return None, "no PNG files: pip install 'saectl[plots]'"

    def drawn(drawing: str, family: str, zoom: int = 1) -> bytes:
        return bytes(svg_to_bytes(svg_string=drawing, zoom=zoom, sans_serif_family=family))

    for family in FAMILIES:
        if drawn(_LETTER.format("M"), family) != drawn(_LETTER.format(" "), family):
            return partial(drawn, family=family, zoom=ZOOM), ""
    return None, f"no PNG files: none of the fonts {', '.join(FAMILIES)} is installed"
