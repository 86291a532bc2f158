"""What SAEs that are equal but for their seed say together: a mean, and how sure it is.

One training is one draw: SAEs of another seed differ by more than a metric's own uncertainty, so
a difference of two architectures is told apart from chance by seeds, not by held-out documents.
Where a sweep has three seeds or more of otherwise equal SAEs, each metric of theirs has

    mean = sum v_i / n,   s^2 = sum (v_i - mean)^2 / (n - 1)
    mean -+ t(0.975, n - 1) s / sqrt(n)

the interval of 95 % by Student's t, over the n values as their evaluations recorded them. It says
how sure the mean over seeds is, on this text; intervals of single SAEs, from a bootstrap over
documents, say how sure one SAE's value is. It refuses a mean over some of the seeds: where one has
no value, there is none, and the reason is told.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sae_cli.plan.graph import train_slug, variant
from sae_cli.report.catalogue import KEPT
from sae_cli.report.gather import Measured, Part, Scored
from sae_cli.report.kin import likeness
from sae_cli.spec.base import Frozen
from sae_cli.spec.studies import COMPARING
from sae_cli.spec.train import Train
from sae_cli.spec.work import TrainWork

FEWEST = 3
"""Seeds, below which there is no interval."""
LEVEL = 0.95


class SeedMean(Frozen):
    """A metric over seeds; null and why where one seed has no value."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None


class OverSeeds(Frozen):
    """SAEs that are equal but for their seed, and the mean of each metric on the kept tokens."""

    id: str
    model: str
    layer: int
    site: str
    out_site: str | None
    arch: str
    width: int
    variant: str
    seeds: tuple[int, ...]
    train_keys: tuple[str, ...]
    control_of: str | None
    """Of SAEs of a model with random weights: the `id` of those that they are controls of."""
    metrics: dict[str, SeedMean]


@dataclass(frozen=True)
class Group:
    """The SAEs, by their seed."""

    members: tuple[Scored, ...]

    @property
    def id(self) -> str:
        """The SAEs' name without a seed, how many there are, and a digest of their keys."""
        train, n = self.members[0].train, len(self.members)
        keys = " ".join(sorted(each.train.key for each in self.members))
        digest = hashlib.sha256(keys.encode("ascii")).hexdigest()[:8]
        return f"{train.deps['cache'].slug}.{train_slug(self.plain)}.seeds{n}-{digest}"

    @property
    def plain(self) -> Train:
        """How all of them were trained, the seed apart."""
        return _train(self.members[0]).model_copy(update={"seed": 0})

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(_train(each).seed for each in self.members)

    def parts(self) -> Iterator[tuple[tuple[Part, ...], dict[str, Measured]]]:
        """For each slice that all of them have, of the evaluation first, then of studies: their
        parts, and the means over these."""
        by_slice = [{_place(p): p for p in s.parts if p.control is None} for s in self.members]
        for name in by_slice[0]:
            if all(name in slices for slices in by_slice):
                parts = tuple(slices[name] for slices in by_slice)
                found = {metric: mean(parts, metric) for metric in parts[0].measured}
                study = parts[0].study
                if study is not None and study.name in COMPARING:  # no independent draws
                    found = {name: replace(one, interval=None) for name, one in found.items()}
                yield parts, found

    def told(self, control_of: str | None) -> OverSeeds:
        """As plain data."""
        row = self.members[0].row
        kept = next(found for parts, found in self.parts() if parts[0].slice == KEPT)
        return OverSeeds(
            id=self.id,
            model=row.model,
            layer=row.layer,
            site=row.site,
            out_site=row.out_site,
            arch=row.arch,
            width=row.width,
            variant=" ".join(variant(self.plain)),
            seeds=self.seeds,
            train_keys=tuple(each.train.key for each in self.members),
            control_of=control_of,
            metrics={name: _plain(each) for name, each in kept.items()},
        )


def groups(found: Sequence[Scored]) -> list[tuple[Group, str | None]]:
    """Those of at least FEWEST seeds, in the order of their first SAEs; of controls, the id of the
    group that they are controls of, seed by seed."""
    kinds: dict[str, list[Scored]] = {}
    for each in found:
        if not isinstance(each.train.work, TrainWork):
            continue  # of an imported SAE no seed is known
        kinds.setdefault(likeness(each.train, seed=False, weights=True), []).append(each)
    made = [
        Group(tuple(sorted(some, key=lambda s: _train(s).seed)))
        for some in kinds.values()
        if len({_train(s).seed for s in some}) >= FEWEST
    ]
    names = {tuple(each.id for each in group.members): group.id for group in made}
    return [(g, names.get(tuple(s.control_of or "" for s in g.members))) for g in made]


def over_seeds(found: Sequence[Scored]) -> list[OverSeeds]:
    """The groups as plain data."""
    return [group.told(control_of) for group, control_of in groups(found)]


def mean(parts: Sequence[Part], metric: str) -> Measured:
    """The mean over seeds and its interval; the module has the formula."""
    each = [part.measured.get(metric) for part in parts]
    values = [one.value for one in each if one is not None and one.value is not None]
    lost = len(each) - len(values)
    if lost:
        reasons = [one.reason if one is not None else "not measured" for one in each if _no(one)]
        return Measured(None, f"{lost} of {len(each)} seeds have no value: {reasons[0]}")
    low, high = t_interval(values)
    return Measured(statistics.fmean(values), None, (low, high))


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Ends of the mean's interval by Student's t, of at least two values."""
    from scipy.special import stdtrit

    n, middle = len(values), statistics.fmean(values)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * statistics.stdev(values) / math.sqrt(n)
    return middle - half, middle + half


def _place(part: Part) -> tuple[str | None, str]:
    return None if part.study is None else part.study.name, part.slice


def _no(one: Measured | None) -> bool:
    return one is None or one.value is None


def _plain(one: Measured) -> SeedMean:
    low, high = one.interval or (None, None)
    return SeedMean(value=one.value, low=low, high=high, reason=one.reason)


def _train(scored: Scored) -> Train:
    assert isinstance(scored.train.work, TrainWork)
    return scored.train.work.train
