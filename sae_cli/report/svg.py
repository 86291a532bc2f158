"""A small renderer of charts: axes, lines, marks, legend, as one `<svg>` without any script.

Colours come from a stylesheet (`palette`): the same drawing is light, dark, or a file of its own.
Colour is never the only difference between series: marks have shapes too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from sae_cli.report.chart import CONTROL, FRONT, Chart, Ring, Series
from sae_cli.report.scale import Scale, scale, told

WIDTH, PLOT = 330.0, 196.0
"""Of a drawing and of the height of its plot, in its own units: about a phone's pixels."""
SIZE, GLYPH = 11.0, 0.56
"""Of text, and its mean width of a letter in ems."""
ROW = 17.0
MARGIN = 12
"""Around a drawing that stands alone."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def draw(chart: Chart, *, titled: bool = False, css: str = "") -> str:
    """The chart as an `<svg>` element; `titled` writes the title above, `css` makes it stand alone.

    Raises ValueError for a chart without a point that its axes can show.
    """
    points = [p for s in chart.series for p in s.points]
    if not points:
        raise ValueError(f"{chart.name} has no points")
    top = (26.0 if titled else 4.0) + 20.0
    bottom = top + PLOT
    ends = [end for s in chart.series for bar in s.bars if bar is not None for end in bar]
    y = scale(chart.y, [*(p[1] for p in points), *ends], bottom, top)
    left = 12.0 + max((len(told(t)) for t in y.ticks), default=1) * SIZE * GLYPH
    x = scale(chart.x, [p[0] for p in points], left, WIDTH - 12.0)
    legend, height = _legend(chart, bottom + 50.0)
    edge = MARGIN if css else 0
    box = f"{-edge} {-edge} {WIDTH + 2 * edge:g} {height + 2 * edge:g}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="{box}" '
        f'role="img" aria-label="{escape(chart.text)}" font-family="{escape(FONT)}" '
        f'font-size="{SIZE:g}">',
        f"<style>{css}</style>" if css else "",
        f'<rect class="paper" x="-{MARGIN}" y="-{MARGIN}" width="100%" height="100%"/>'
        if css
        else "",
        f'<text class="title" x="0" y="15">{escape(chart.title)}</text>' if titled else "",
        *_axes(chart, x, y, left, top, bottom),
        *(_series(s, x, y) for s in chart.series),
        *(_ring(r, x, y) for r in chart.rings),
        *legend,
        "</svg>",
    ]
    return "\n".join(filter(None, parts))


def _axes(
    chart: Chart, x: Scale, y: Scale, left: float, top: float, bottom: float
) -> Iterator[str]:
    right = WIDTH - 12.0
    for tick in y.ticks:
        at = y(tick)
        yield f'<path class="grid" d="M{left:.1f} {at:.1f}H{right:.1f}"/>'
        yield (
            f'<text class="tick" text-anchor="end" x="{left - 6:.1f}" y="{at + 3.8:.1f}">'
            f"{told(tick)}</text>"
        )
    yield f'<path class="axis" d="M{left:.1f} {bottom:.1f}H{right:.1f}"/>'
    clear = -math.inf
    for tick in x.ticks:
        at, said = x(tick), told(tick)
        yield f'<path class="axis" d="M{at:.1f} {bottom:.1f}v4"/>'
        half = len(said) * SIZE * GLYPH / 2
        if at - half < clear:
            continue
        clear = at + half + 5
        place = f'x="{at:.1f}" y="{bottom + 16:.1f}"'
        yield f'<text class="tick" text-anchor="middle" {place}>{said}</text>'
    yield f'<text class="name" x="0" y="{top - 10:.1f}">{escape(chart.y.label)}</text>'
    yield (
        f'<text class="name" text-anchor="end" x="{right:.1f}" y="{bottom + 32:.1f}">'
        f"{escape(chart.x.label)}</text>"
    )


def _series(series: Series, x: Scale, y: Scale) -> str:
    bars = [
        f'<path class="line" d="M{x(a):.1f} {y(bar[0]):.1f}V{y(bar[1]):.1f}"/>'
        for (a, _), bar in zip(series.points, series.bars, strict=False)
        if bar is not None and x.holds(a) and y.holds(bar[0]) and y.holds(bar[1])
    ]
    shown = [
        (x(a), y(b), series.tips[i] if i < len(series.tips) else "")
        for i, (a, b) in enumerate(series.points)
        if x.holds(a) and y.holds(b)
    ]
    parts = [f'<g class="{css_class(series.style)}">', *bars]
    if series.line and len(shown) > 1:
        dash = ' stroke-dasharray="4 3"' if series.dashed else ""
        parts.append(f'<path class="line" d="{_path(shown, series.step)}"{dash}/>')
    if series.marks:
        for px, py, tip in shown:
            shape = mark(series.style, px, py, hollow=series.hollow)
            title = f"<title>{escape(tip)}</title>" if tip else ""
            parts.append(f'<g class="mark">{title}{shape}</g>')
    return "".join((*parts, "</g>"))


def _path(shown: list[tuple[float, float, str]], step: bool) -> str:
    (first_x, first_y, _), *rest = shown
    path = f"M{first_x:.1f} {first_y:.1f}"
    for px, py, _ in rest:
        path += f"H{px:.1f}V{py:.1f}" if step else f"L{px:.1f} {py:.1f}"
    return path


def _ring(ring: Ring, x: Scale, y: Scale) -> str:
    px, py = x(ring.x), y(ring.y)
    side = "end" if px > WIDTH * 0.7 else "start"
    away = -10 if side == "end" else 10
    place = f'text-anchor="{side}" x="{px + away:.1f}" y="{py - 8:.1f}"'
    said = f"<text {place}>{escape(ring.label)}</text>" if ring.label else ""
    return f'<g class="ring"><circle cx="{px:.1f}" cy="{py:.1f}" r="7.5"/>{said}</g>'


def _legend(chart: Chart, top: float) -> tuple[list[str], float]:
    """Its entries, in rows below the plot, and the height of the whole drawing."""
    parts, px, py = [], 0.0, top
    seen: dict[str, Series] = {}
    for series in chart.series:
        if series.label:
            seen.setdefault(series.label, series)
    for label, series in seen.items():
        wide = 22.0 + len(label) * SIZE * GLYPH + 10.0
        if px and px + wide > WIDTH:
            px, py = 0.0, py + ROW
        dash = ' stroke-dasharray="4 3"' if series.dashed else ""
        line = f'<path class="line" d="M{px:.1f} {py - 4:.1f}h16"{dash}/>' if series.line else ""
        shape = mark(series.style, px + 8, py - 4, hollow=series.hollow) if series.marks else ""
        parts.append(
            f'<g class="{css_class(series.style)}">{line}<g class="mark">{shape}</g></g>'
            f'<text class="key" x="{px + 21:.1f}" y="{py:.1f}">{escape(label)}</text>'
        )
        px += wide
    return parts, py + 6.0 if parts else top - 12.0


def css_class(style: int) -> str:
    """The class of a series' group."""
    if style <= CONTROL:
        return "control"
    return "front" if style == FRONT else f"s{style}"


def mark(style: int, px: float, py: float, *, hollow: bool) -> str:
    """The shape of a style at a place."""
    look = ' class="hollow"' if hollow else ""
    shapes = {
        0: f'<circle{look} cx="{px:.1f}" cy="{py:.1f}" r="3.6"/>',
        1: f'<rect{look} x="{px - 3.3:.1f}" y="{py - 3.3:.1f}" width="6.6" height="6.6"/>',
        2: f'<path{look} d="M{px:.1f} {py - 4.4:.1f}l4.3 7.6h-8.6z"/>',
        3: f'<path{look} d="M{px:.1f} {py - 4.8:.1f}l4.8 4.8l-4.8 4.8l-4.8 -4.8z"/>',
        4: f'<path{look} d="M{px:.1f} {py + 4.4:.1f}l4.3 -7.6h-8.6z"/>',
        5: f'<rect{look} x="{px - 4.5:.1f}" y="{py - 2:.1f}" width="9" height="4"/>',
        6: f'<rect{look} x="{px - 2:.1f}" y="{py - 4.5:.1f}" width="4" height="9"/>',
    }
    return shapes[style if style >= 0 else (CONTROL - style + 3) % len(shapes)]
