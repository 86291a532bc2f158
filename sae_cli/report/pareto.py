"""Which SAEs no other beats: Pareto fronts of sparsity against a metric, place by place.

An SAE is on the front of its (model, layer, site) if no other there is at least as sparse and at
least as good and better in one of both. Two that are equal in both are on it together.
"""

from __future__ import annotations

from collections.abc import Sequence

from sae_cli.report.catalogue import meaning
from sae_cli.report.results import SaeRow
from sae_cli.spec.base import Frozen

COST = "l0_v1"
METRICS = ("fvu.pooled_v1", "ce.delta_v1", "ce_recovered.zero_v1")
"""What sparsity is paid with: the fronts that a report shows."""


class Front(Frozen):
    """The SAEs of one place that no other of it beats, by ascending cost."""

    model: str
    layer: int
    site: str
    out_site: str | None
    """What transcoders predict; null for SAEs."""
    cost: str
    """What should be low."""
    metric: str
    """What should be good, in the metric's own direction."""
    train_keys: tuple[str, ...]
    costs: tuple[float, ...]
    values: tuple[float, ...]
    of: int
    """SAEs that were compared: those that have both numbers."""


def fronts(rows: Sequence[SaeRow], metric: str, cost: str = COST) -> list[Front]:
    """A front for each place that has an SAE with both numbers, in the rows' order."""
    sign = -1.0 if meaning(metric).direction == "up" else 1.0
    places: dict[tuple[str, int, str, str | None], list[tuple[float, float, str]]] = {}
    for row in rows:
        x, y = row.metrics.get(cost), row.metrics.get(metric)
        if x is not None and y is not None:
            place = (row.model, row.layer, row.site, row.out_site)
            places.setdefault(place, []).append((x, sign * y, row.train_key))
    found = []
    for (model, layer, site, out_site), points in places.items():
        best = [points[i] for i in front([p[:2] for p in points])]
        found.append(
            Front(
                model=model,
                layer=layer,
                site=site,
                out_site=out_site,
                cost=cost,
                metric=metric,
                train_keys=tuple(key for _, _, key in best),
                costs=tuple(x for x, _, _ in best),
                values=tuple(sign * y for _, y, _ in best),
                of=len(points),
            )
        )
    return found


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other dominates, both coordinates to be low, by the first."""
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if not kept or points[i][1] < points[kept[-1]][1] or points[i] == points[kept[-1]]:
            kept.append(i)
    return kept
