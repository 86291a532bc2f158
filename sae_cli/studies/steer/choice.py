"""Which features, and how hard: decided on validation prompts alone, the smallest set that does it.

By the first token of the reply, with r the refusal logit gap and P(R) its probability:

    induce     mean change of r on harmless prompts, the set's direction added at the best of the
               coarse strengths
    necessity  minus the mean change of r on harmful prompts, each feature at its harmless mean
    induced    share of harmless prompts with P(R) above a half, the largest over those strengths
    fall       share of harmful prompts with P(R) above a half, less that without the features

A set is enough with `induced` and `fall` of the spec; the smallest size that has one is taken, and
of it the set with the most of both together. Where no size has, the best of all. Its strength is
that of the largest lead in whole replies (of the embedded model: well-formed ones) over random
features at the same length of edit: the weakest of those within a fiftieth of it, of the coarse
strengths and of finer ones beside the best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.sae.base import SAE
from sae_cli.spec.steering import SteeringStudy
from sae_cli.studies.steer.chat import Asked
from sae_cli.studies.steer.edits import Push, add, clamp, nothing
from sae_cli.studies.steer.shortlist import Listed
from sae_cli.studies.steer.speak import Speaker

Floats = NDArray[np.float64]
PAIRED = 6
"""Features that are tried in pairs: those that induce most alone."""
NEAR = 0.02
FINER = (2**-0.5, 2**-0.25, 2**0.25, 2**0.5)
"""Times the best of the coarse strengths."""


@dataclass(frozen=True)
class Tried:
    """A set of features, and what it did on validation prompts."""

    features: tuple[int, ...]
    induce: float
    strength: float
    """At which it induces most."""
    induced: float
    necessity: float
    fall: float

    @property
    def merit(self) -> float:
        """What sets of one size are ranked by."""
        return self.induced + self.fall


@dataclass(frozen=True)
class Validation:
    """What is tried on."""

    speaker: Speaker
    harmful: Sequence[Asked]
    harmless: Sequence[Asked]
    refusing: Tensor
    """R."""
    norm: float
    """The unit of strengths."""


def direction(sae: SAE, listed: Listed, features: Sequence[int]) -> Tensor:
    """float32 [d], unit norm: the decoder rows of a set, each by its weight."""
    weights = torch.tensor([listed.weights[i] for i in features], device=sae.W_dec.device)
    v: Tensor = weights @ sae.W_dec[list(features)].float()
    return v.div(v.norm())


def without(sae: SAE, listed: Listed, features: Sequence[int], spec: SteeringStudy) -> Push:
    """A set at its harmless means."""
    at_ = list(features)
    return clamp(sae, at_, listed.harmless[at_], spec.at)


def tried(
    sae: SAE, listed: Listed, spec: SteeringStudy, on: Validation
) -> tuple[Tried, list[Tried]]:
    """The set that is chosen, and all that were tried. `listed` has one feature at least."""
    plain = [
        on.speaker.gaps(some, [nothing()], on.refusing)[0] for some in (on.harmless, on.harmful)
    ]

    def look(sets: Sequence[tuple[int, ...]]) -> list[Tried]:
        return _looked(sae, listed, spec, on, plain, sets)

    found = look([(i,) for i in listed.features])
    everything = list(found)
    for size in range(1, spec.most + 1):
        if size > 1:
            ones = sorted(everything[: len(listed.features)], key=lambda t: -t.induce)
            best = [t.features[0] for t in ones[:PAIRED]]
            found = look(_grown(best, found, size))
            everything += found
        good = [t for t in found if t.induced >= spec.enough and t.fall >= spec.needed]
        if good or not found:
            break
    some = good or everything
    return max(some, key=lambda t: (t.merit, -len(t.features), t.induce)), everything


def _grown(best: Sequence[int], before: Sequence[Tried], size: int) -> list[tuple[int, ...]]:
    """All pairs of the best features; then the best pair with each of the others."""
    if size == 2:
        return list(combinations(best, 2))
    if not before:
        return []
    pair = max(before, key=lambda t: (t.merit, t.induce)).features
    return [(*pair, i) for i in best if i not in pair]


def _looked(
    sae: SAE, listed: Listed, spec: SteeringStudy, on: Validation, plain: Sequence[Floats],
    sets: Sequence[tuple[int, ...]],
) -> list[Tried]:  # fmt: skip
    if not sets:
        return []
    harmless, harmful = plain
    added = [
        add(strength * on.norm * direction(sae, listed, each), spec.at)
        for each in sets
        for strength in spec.strengths
    ]
    pushed = on.speaker.gaps(on.harmless, added, on.refusing)
    pushed = pushed.reshape(len(sets), len(spec.strengths), -1)
    less = on.speaker.gaps(
        on.harmful, [without(sae, listed, each, spec) for each in sets], on.refusing
    )
    out = []
    for each, gaps, gone in zip(sets, pushed, less, strict=True):
        moved = (gaps - harmless).mean(1)
        out.append(
            Tried(
                each, float(moved.max()), spec.strengths[int(moved.argmax())],
                float((gaps > 0).mean(1).max()), float((harmful - gone).mean()),
                float((harmful > 0).mean() - (gone > 0).mean()),
            )
        )  # fmt: skip
    return out


Rates = Callable[[Sequence[float]], tuple[Floats, Floats]]
"""By strength: share of harmless validation prompts refused, by the features and by random ones."""


def strength_of(spec: SteeringStudy, rates: Rates) -> tuple[float, list[dict[str, Any]]]:
    """The strength that is chosen, and what was found at each that was tried."""
    strengths = sorted(set(spec.strengths))
    own, random = rates(strengths)
    best = strengths[int((own - random).argmax())]
    finer = [s for s in (best * each for each in FINER) if s not in strengths]
    more, beside = rates(finer)
    every = sorted(zip([*strengths, *finer], [*own, *more], [*random, *beside], strict=True))
    lead = max(o - r for _, o, r in every)
    chosen = next(s for s, o, r in every if o - r >= lead - NEAR)
    told = [{"strength": float(s), "refused": float(o), "random": float(r)} for s, o, r in every]
    return float(chosen), told


def plain_of(some: Sequence[Tried]) -> list[dict[str, Any]]:
    """As plain data."""
    return [asdict(each) for each in some]
