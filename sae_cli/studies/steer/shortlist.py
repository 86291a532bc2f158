"""The features of an SAE that may make the model refuse, by how they fire on selection prompts.

All features are scored at all places; the best go on a shortlist, each with the sign and the weight
by which it is pushed: how much more it fires on harmful prompts than on harmless ones at the last
prompt token or, where it is silent there, at the place where it scores best. A weight below zero
is that of a feature of harmless prompts, which is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.sae.base import SAE
from sae_cli.spec.steering import SteeringStudy
from sae_cli.studies.steer import detect
from sae_cli.studies.steer.reading import LAST, Read

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Site:
    """What is the same for all SAEs of a site."""

    harmful: Read
    harmless: Read
    matched: Read

    @property
    def direction(self) -> Tensor:
        """float64 [d]: difference of the mean activations at the last prompt token."""
        return self.harmful.last.double().mean(0) - self.harmless.last.double().mean(0)

    @property
    def norm(self) -> float:
        """Mean norm at the last prompt token of harmless prompts: the unit of strengths."""
        return float(self.harmless.last.double().norm(dim=1).mean())


@dataclass(frozen=True)
class Listed:
    """The features of one SAE."""

    features: tuple[int, ...]
    """The shortlist, the best first."""
    weights: dict[int, float]
    """Of those, in raw activation units."""
    cosines: Floats
    """[d_sae]."""
    rates: Floats
    """[d_sae]: share of selection prompts, of both kinds, on whose instruction or last token it
    fires."""
    harmless: Tensor
    """float32 [d_sae]: mean on harmless prompts at the last prompt token."""
    largest: Tensor
    """float32 [d_sae]: the largest on harmful prompts there."""
    told: dict[int, dict[str, Any]]
    """Of those on the shortlist, each place's figures, as plain data."""

    @property
    def live(self) -> list[int]:
        """Features that fire on some selection prompt."""
        return [int(i) for i in np.flatnonzero(self.rates > 0)]


def listed(sae: SAE, site: Site, spec: SteeringStudy) -> Listed:
    """The shortlist of an SAE."""
    rows = sae.W_dec.double()
    along = site.direction / site.direction.norm()
    cosines = ((rows @ along) / rows.norm(dim=1)).cpu().numpy()
    best = np.full(sae.d_sae, -np.inf)
    where = np.zeros(sae.d_sae, np.int64)
    differences: dict[str, Floats] = {}
    fired = np.zeros(sae.d_sae)
    places = site.harmful.places
    for number, place in enumerate(places):
        a, b, c = (_values(sae, each, place) for each in _three(site))
        differences[place] = detect.difference(a, b)
        found = detect.scores(a, b, c, cosines, spec.penalty)
        better = found > best
        best[better], where[better] = found[better], number
        if place in (LAST, "max"):
            fired = np.maximum(fired, np.concatenate([a, b]).astype(bool).mean(0))
        if place == LAST:
            harmless, largest = b.mean(0), a.max(0)
    order = [int(i) for i in np.argsort(-best, kind="stable")[: spec.shortlist] if best[i] > 0]
    weights = {i: float(differences[LAST][i] or differences[places[where[i]]][i]) for i in order}
    return Listed(
        tuple(order), weights, cosines, fired,
        torch.from_numpy(harmless).float().to(sae.W_dec.device),
        torch.from_numpy(largest).float().to(sae.W_dec.device),
        _told(sae, site, spec, order, cosines, {i: places[where[i]] for i in order}),
    )  # fmt: skip


def _three(site: Site) -> tuple[Read, Read, Read]:
    return site.harmful, site.harmless, site.matched


def _values(sae: SAE, read: Read, place: str) -> Floats:
    return read.features(sae, place).double().cpu().numpy()


def _told(
    sae: SAE, site: Site, spec: SteeringStudy, order: Sequence[int], cosines: Floats,
    where: dict[int, str],
) -> dict[int, dict[str, Any]]:  # fmt: skip
    out: dict[int, dict[str, Any]] = {
        i: {"cosine": float(cosines[i]), "read_at": where[i], "places": {}} for i in order
    }
    if not order:
        return out
    for place in site.harmful.places:
        a, b, c = (_values(sae, each, place) for each in _three(site))
        whole = detect.scores(a, b, c, cosines, spec.penalty)
        a, b, c = a[:, order], b[:, order], c[:, order]
        found = {
            "difference": detect.difference(a, b), "rate": detect.rate(a, b),
            "d": detect.cohen_d(a, b), "auroc": detect.auroc(a, b),
            "spill": detect.spill(a, b, c), "score": whole[order],
        }  # fmt: skip
        for at, i in enumerate(order):
            out[i]["places"][place] = {name: float(values[at]) for name, values in found.items()}
    return out
