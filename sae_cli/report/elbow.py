"""Where more width stops to pay: the elbow of an error over the logarithm of the width.

The elbow is the measured width at which the curve lies deepest below the straight line from its
first to its last point, both axes scaled to [0, 1] (Satopaa et al. 2011, "Finding a 'Kneedle' in a
Haystack"). It names a width that was trained, never one between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sae_cli.report.results import SaeRow
from sae_cli.spec.base import Frozen

METRIC = "fvu.pooled_v1"
FEWEST = 3
"""Widths that a curve needs: two points have no bend."""


class Elbow(Frozen):
    """The elbow of SAEs that differ in nothing but their width."""

    model: str
    layer: int
    site: str
    out_site: str | None
    arch: str
    variant: str
    metric: str
    """What is plotted over the width; less is better."""
    widths: tuple[int, ...]
    """Those measured, ascending."""
    values: tuple[float, ...]
    """The metric at each."""
    width: int | None
    """The elbow; null where the curve has none: it never lies below the line between its ends."""


def elbows(rows: Sequence[SaeRow], metric: str = METRIC) -> list[Elbow]:
    """An elbow for each set of SAEs that differ only in width and have three widths or more."""
    groups: dict[tuple[str, int, str, str | None, str, str], list[tuple[int, float]]] = {}
    for row in rows:
        value = row.metrics.get(metric)
        if value is not None:
            key = (row.model, row.layer, row.site, row.out_site, row.arch, row.variant)
            groups.setdefault(key, []).append((row.width, value))
    found = []
    for (model, layer, site, out_site, arch, variant), points in groups.items():
        widths, values = zip(*sorted(points), strict=True)
        if len(set(widths)) == len(widths) >= FEWEST:
            found.append(
                Elbow(
                    model=model,
                    layer=layer,
                    site=site,
                    out_site=out_site,
                    arch=arch,
                    variant=variant,
                    metric=metric,
                    widths=widths,
                    values=values,
                    width=elbow(widths, values),
                )
            )
    return found


def elbow(widths: Sequence[int], values: Sequence[float]) -> int | None:
    """The elbow of a curve of at least two points, by ascending width; None if it has none."""
    xs = [math.log2(width) for width in widths]
    span, drop = xs[-1] - xs[0], values[0] - values[-1]
    if drop <= 0:
        return None
    below = [
        (1 - (x - xs[0]) / span) - (y - values[-1]) / drop for x, y in zip(xs, values, strict=True)
    ]
    deepest = max(range(len(below)), key=below.__getitem__)
    return widths[deepest] if below[deepest] > 1e-9 else None
