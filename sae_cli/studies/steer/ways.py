"""The ways in which the chosen features are used: pushes, by the names that results give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_cli.sae.base import SAE
from sae_cli.spec.steering import Intervention, SteerAt
from sae_cli.studies.steer.edits import Push, ablate, add, clamp, scale, when
from sae_cli.studies.steer.reading import LAST
from sae_cli.studies.steer.shortlist import Listed, Site

BY = 2.0
"""How much, of a clamp or a scale that does not say."""


@dataclass(frozen=True)
class Chosen:
    """A set of features of an SAE, and how hard it is pushed."""

    sae: SAE
    listed: Listed
    features: tuple[int, ...]
    direction: Tensor
    """float32 [d], unit norm."""
    strength: float
    norm: float
    """The unit of strengths."""

    def vector(self, strength: float) -> Tensor:
        """float32 [d], that much of the direction."""
        return strength * self.norm * self.direction

    @property
    def signs(self) -> Tensor:
        """bool [n]: those that harmful prompts have more of."""
        return torch.tensor([self.listed.weights[i] > 0 for i in self.features],
                            device=self.sae.W_dec.device)  # fmt: skip


@dataclass(frozen=True)
class Detector:
    """A feature that tells harmful prompts from harmless ones at their last token."""

    feature: int
    above: float
    """It says harmful above this value."""


def detector(chosen: Chosen, site: Site) -> Detector | None:
    """Of the shortlist's features of harmful prompts the one with the largest share of harmful
    selection prompts less that of harmless ones above one value; None where there is none."""
    best: tuple[float, int, float] | None = None
    at = [i for i in chosen.listed.features if chosen.listed.weights[i] > 0]
    if not at:
        return None
    a, b = (
        read.features(chosen.sae, LAST)[:, at].double().cpu().numpy()
        for read in (site.harmful, site.harmless)
    )
    for column, feature in enumerate(at):
        for above in np.unique(np.concatenate([[0.0], a[:, column], b[:, column]])):
            lead = float((a[:, column] > above).mean() - (b[:, column] > above).mean())
            if best is None or lead > best[0]:
                best = lead, feature, float(above)
    assert best is not None
    return Detector(best[1], best[2])


def way(asked: Intervention, chosen: Chosen, gate: Detector | None) -> Push | None:
    """The push that an intervention means; None for a conditional one without a detector."""
    sae, which, signs = chosen.sae, list(chosen.features), chosen.signs
    if asked.kind in ("add", "conditional"):
        push = add(chosen.vector(asked.by or chosen.strength), asked.at)
        if asked.kind == "add":
            return push
        return None if gate is None else when(push, sae, gate.feature, gate.above)
    by = asked.by or BY
    if asked.kind == "clamp":
        to = torch.where(signs, by * chosen.listed.largest[which], 0.0)
        return clamp(sae, which, to, asked.at)
    return scale(sae, which, torch.where(signs, by, 0.0), asked.at)


def named(asked: Intervention) -> str:
    """The slice of an intervention: `clamp,last,by=2`."""
    by = asked.by if asked.kind in ("add", "conditional") else asked.by or BY
    return f"{asked.kind},{asked.at}" + ("" if by is None else f",by={by:g}")


def suppressing(chosen: Chosen, at: SteerAt) -> dict[str, Push]:
    """The pushes that make a model refuse less: the set at its harmless mean, the features of
    harmful prompts at zero, the direction taken away."""
    which = list(chosen.features)
    some = [i for i in which if chosen.listed.weights[i] > 0]
    where: dict[str, Push] = {
        "clamp": clamp(chosen.sae, which, chosen.listed.harmless[which], at),
    }
    if some:
        where["ablate"] = ablate(chosen.sae, some, at)
    where["opposite"] = add(chosen.vector(-chosen.strength), at)
    return where


def clamped_sets(chosen: Chosen, sets: Sequence[Sequence[int]], at: SteerAt) -> list[Push]:
    """Other sets at their harmless means."""
    return [clamp(chosen.sae, list(each), chosen.listed.harmless[list(each)], at) for each in sets]
