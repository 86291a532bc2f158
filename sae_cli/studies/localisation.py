"""Whether a few latents carry the name that an indirect-object sentence asks for.

After Cunningham et al. (2023, arXiv 2309.08600, section 5): k latents take the values that they
have in the same prompt with its names exchanged, and what the SAE does not explain stays as it
was. With D the logit difference of `studies.ioi`, x' = x + sum over the k of (f'_i - f_i) W_dec,i,
and sums over held-out pairs,

    localisation.moved_v1  sum (D clean - D with k latents) / sum (D clean - D with all of x)
    localisation.edit_v1   sum |x' - x| / sum |change of all of x|
    localisation.full_v1   mean of D clean - D with all of x, in nats
    localisation.half_v1   the least k, of those asked for, that moves half or more

The first two are slices, `k=4`. The k latents are those of the largest estimated effect on other
pairs, the same for every pair: minus the sum of (f'_i - f_i) W_dec,i . dD/dx, with the mean of the
gradients at both ends. Controls: `pca`, as many principal directions of training activations,
chosen the same way; `random`, the mean over draws of as many latents among those that differ in
some pair; `random_worst`, the draw that moves most. Intervals are over held-out pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.lm.restart import Forwards
from sae_cli.sae.base import SAE
from sae_cli.sae.controls import SEED, Covariance
from sae_cli.spec.studies import LocalisationStudy
from sae_cli.studies import resample
from sae_cli.studies.bench import Bench, Figure, Findings
from sae_cli.studies.ioi import Group, Patching, pairs
from sae_cli.studies.truth_labels import need_grammar

MOVED, EDIT = "localisation.moved_v1", "localisation.edit_v1"
FULL, HALF = "localisation.full_v1", "localisation.half_v1"
TRANSCODER = "a transcoder does not write where it reads, so its latents can't be patched there"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Dictionary:
    """Coefficients of a change of activations, and the rows that they belong to."""

    rows: Tensor
    """float32 [n, d]"""
    chosen_on: list[Tensor]
    """float32 `[b, p, n]` of each group: how much each coefficient changes."""
    judged_on: list[Tensor]


@dataclass(frozen=True)
class Effect:
    """What a patch did to each held-out pair, float64 [pairs]."""

    moved: Floats
    """D clean - D patched."""
    size: Floats
    """Length of the edit, over all its positions."""


@dataclass(frozen=True)
class Sides:
    """The pairs to choose on, and those to judge on."""

    chosen_on: Patching
    gradients: list[Tensor]
    judged_on: Patching
    full: Effect
    often: Floats
    """[resamples, pairs]"""


def run(spec: LocalisationStudy, bench: Bench) -> dict[str, Findings]:
    """What a few latents of each SAE of the bench move, by key.

    Raises ModelError for another model than the embedded one.
    """
    need_grammar(bench, "localisation")
    sides = _sides(spec, bench)
    method = {**spec.model_dump(), "bootstrap": resample.METHOD, "seed": SEED}
    method["choice"] = "attribution, trapezoid of two gradients"
    count, mean = sides.judged_on.count, float(sides.full.moved.mean())
    low, high = resample.ends(sides.often @ sides.full.moved / count, count)
    whole = Figure(FULL, mean, None, low, high, count, n=count)
    if mean < spec.least_moved:
        weak = (
            f"patching all of the activation moves the logit difference by {mean:.3g} nats, less "
            f"than {spec.least_moved:g}: nothing of the name is read here"
        )
        return {k: Findings([whole, *_null(spec, weak)], {}, method) for k in bench.saes}
    directions = _directions(bench, spec.pca_tokens)
    pca = _dictionary(directions, sides, lambda group: group.change @ directions.T)
    beside = list(_measured(pca, spec, sides, "pca"))
    found = {}
    for key, sae in bench.saes.items():
        if key in bench.transcoders:
            found[key] = Findings(_null(spec, TRANSCODER), {}, method)
            continue
        latents = _dictionary(sae.W_dec.float(), sides, partial(_latents, sae))
        own = list(_measured(latents, spec, sides, None))
        random = list(_random(latents, spec, sides))
        detail = {
            "latents": _ranked(latents, sides)[: max(spec.k)],
            "clean": float(sides.judged_on.clean.mean()),
            "right": float((sides.judged_on.clean > 0).mean()),
        }
        found[key] = Findings([whole, _half(own, spec), *own, *random, *beside], detail, method)
    return found


def _sides(spec: LocalisationStudy, bench: Bench) -> Sides:
    last, forwards = spec.positions == "last", Forwards(bench.model)
    one = pairs(bench.tokenizer, spec.pairs, seed=0)
    two = pairs(bench.tokenizer, spec.heldout_pairs, seed=1, without=one)
    chosen_on, judged_on = (Patching(bench, forwards, some, last) for some in (one, two))
    full = _effect(judged_on, [group.change for group in judged_on.groups])
    often = resample.draws(judged_on.count)
    return Sides(chosen_on, chosen_on.gradients(), judged_on, full, often)


def _dictionary(rows: Tensor, sides: Sides, changes: Callable[[Group], Tensor]) -> Dictionary:
    both = ([changes(g) for g in part.groups] for part in (sides.chosen_on, sides.judged_on))
    return Dictionary(rows, *both)


def _latents(sae: SAE, group: Group) -> Tensor:
    x = group.acts.float()
    return sae.encode(x + group.change).float() - sae.encode(x).float()


def _directions(bench: Bench, tokens: int) -> Tensor:
    covariance = Covariance(bench.mean)
    for seen in bench.text("train", tokens):
        covariance.add(seen.acts[seen.keep])
    return covariance.directions()


def _ranked(some: Dictionary, sides: Sides) -> list[int]:
    """Coefficients by their estimated effect, the largest first."""
    total = torch.zeros(len(some.rows), dtype=torch.float64, device=some.rows.device)
    for change, gradient in zip(some.chosen_on, sides.gradients, strict=True):
        total -= (change * (gradient @ some.rows.T)).double().sum((0, 1))
    return [int(i) for i in np.argsort(-total.cpu().numpy(), kind="stable")]


def _effect(patching: Patching, changes: Sequence[Tensor]) -> Effect:
    size = np.zeros(patching.count)
    for group, change in zip(patching.groups, changes, strict=True):
        size[group.at] = change.double().flatten(1).norm(dim=1).cpu().numpy()
    return Effect(patching.clean - patching.patched(changes), size)


def _of(some: Dictionary, which: Sequence[int], sides: Sides) -> Effect:
    at = torch.tensor(list(which), device=some.rows.device)
    changes = [change[..., at] @ some.rows[at] for change in some.judged_on]
    return _effect(sides.judged_on, changes)


def _measured(
    some: Dictionary, spec: LocalisationStudy, sides: Sides, control: str | None
) -> Iterator[Figure]:
    ranked = _ranked(some, sides)
    for k in spec.k:
        if k > len(ranked):
            yield from _missing(k, f"there are {len(ranked)} to choose from", control)
        else:
            yield from _told(_of(some, ranked[:k], sides), k, sides, control)


def _random(some: Dictionary, spec: LocalisationStudy, sides: Sides) -> Iterator[Figure]:
    differ = torch.zeros(len(some.rows), dtype=torch.bool, device=some.rows.device)
    for change in some.chosen_on:
        differ |= (change != 0).flatten(0, 1).any(0)
    there = differ.nonzero()[:, 0].cpu().numpy()
    for k in spec.k:
        if k > len(there):
            for name in ("random", "random_worst"):
                yield from _missing(k, f"{len(there)} latents differ in some pair", name)
            continue
        dice = np.random.default_rng([SEED, k])
        drawn = [
            _of(some, dice.choice(there, k, replace=False).tolist(), sides)
            for _ in range(spec.draws)
        ]
        moved, size = (np.mean([getattr(e, n) for e in drawn], axis=0) for n in ("moved", "size"))
        yield from _told(Effect(moved, size), k, sides, "random")
        yield from _told(max(drawn, key=lambda e: e.moved.sum()), k, sides, "random_worst")


def _told(effect: Effect, k: int, sides: Sides, control: str | None) -> Iterator[Figure]:
    for name, part, whole in (
        (MOVED, effect.moved, sides.full.moved), (EDIT, effect.size, sides.full.size),
    ):  # fmt: skip
        low, high = resample.ends((sides.often @ part) / (sides.often @ whole), len(part))
        value = float(part.sum() / whole.sum())
        yield Figure(name, value, None, low, high, len(part), n=len(part), **_who(k, control))


def _missing(k: int, reason: str, control: str | None) -> Iterator[Figure]:
    for name in (MOVED, EDIT):
        yield Figure(name, None, reason, **_who(k, control))


def _who(k: int, control: str | None) -> dict[str, Any]:
    drawn = control in ("random", "random_worst")
    return {"slice": f"k={k}", "control": control, "seed": SEED if drawn else None}


def _half(own: Sequence[Figure], spec: LocalisationStudy) -> Figure:
    enough = [
        k
        for k, figure in zip(spec.k, (f for f in own if f.metric == MOVED), strict=True)
        if figure.value is not None and figure.value >= 0.5
    ]
    if enough:
        return Figure(HALF, float(min(enough)))
    return Figure(HALF, None, f"none of {', '.join(map(str, spec.k))} latents moves half")


def _null(spec: LocalisationStudy, reason: str) -> list[Figure]:
    """What can't be had of an SAE, but for what all of x moves."""
    return [Figure(HALF, None, reason), *(f for k in spec.k for f in _missing(k, reason, None))]
