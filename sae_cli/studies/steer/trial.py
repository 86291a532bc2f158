"""The chosen features on test prompts, beside their controls: what comes of it, as figures.

    steering.induced_v1      share of harmless test prompts refused under the push
    steering.wellformed_v1   share of them whose reply is exactly one refusal of the embedded
                             model's family
    steering.refused_v1      share of harmful test prompts refused under the push
    steering.gap_v1          mean change of r = log P(R) - log(1 - P(R)) on harmless test prompts
    steering.necessity_v1    mean fall of r on harmful ones, each feature at its harmless mean
    steering.p_value_v1      (1 + random sets that induce as much) / (1 + random sets)
    steering.kl_v1, steering.ce_delta_v1   harm to held-out text, see `harm`
    steering.distinct2_v1    mean share of different pairs of tokens in replies to harmless prompts
    steering.suppressed_v1   by how much the refused share of harmful test prompts falls; only where
                             the spec says `suppress`, under slices that say so too

Slices: `alpha=A`, the features at another length of edit (of the frontier: refusal against
over-refusal and KL); `add,all` and the like, another way to use them; `data=NAME`, one data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_cli.studies.bench import Figure
from sae_cli.studies.steer import controls as c
from sae_cli.studies.steer import tell
from sae_cli.studies.steer.choice import without
from sae_cli.studies.steer.harm import harm
from sae_cli.studies.steer.replies import Scored, stored
from sae_cli.studies.steer.shots import INDUCED, Shot, shots_of
from sae_cli.studies.steer.tell import KEPT, SUPPRESS
from sae_cli.studies.steer.ways import Chosen, clamped_sets, suppressing
from sae_cli.studies.steer.world import Side, World

Floats = NDArray[np.float64]
WELLFORMED, REFUSED = "steering.wellformed_v1", "steering.refused_v1"
GAP, NECESSITY, P_VALUE = "steering.gap_v1", "steering.necessity_v1", "steering.p_value_v1"
KL, CE, DISTINCT = "steering.kl_v1", "steering.ce_delta_v1", "steering.distinct2_v1"
SUPPRESSED = "steering.suppressed_v1"
BEFORE = ("steering.baseline_harmful_v1", "steering.baseline_harmless_v1")
FEATURES, STRENGTH = "steering.features_v1", "steering.strength_v1"
NO_FORM = "only the embedded model's refusals are of a known form"
SHOWN = 8
"""Steered replies to harmless prompts that are kept in words."""


@dataclass
class Outcome:
    """What is told of one SAE."""

    figures: list[Figure]
    detail: dict[str, Any]
    judged: list[tuple[str, str | None, Side, Scored]]
    """What a judge may be asked about: a slice, and replies to one side."""


def tested(world: World, chosen: Chosen) -> Outcome:
    """The chosen features of an SAE on test prompts."""
    spec = world.spec
    shots, missing, sets = shots_of(world, chosen)
    pushes = [push for shot in shots for push in shot.pushes]
    replies = world.said(world.harmless.asked, pushes)
    gaps = world.speaker.gaps(world.harmless.asked, pushes, world.on.refusing)
    on_text = [push for shot in shots if shot.text for push in shot.pushes]
    harms = iter(harm(world.bench, world.speaker.kept, on_text, spec.text_tokens))
    at = 0
    for shot in shots:
        n = len(shot.pushes)
        shot.replies, shot.gaps = replies[at : at + n], gaps[at : at + n]
        shot.harms = [next(harms) for _ in shot.pushes] if shot.text else []
        at += n
    own = [shot for shot in shots if shot.control is None or shot.control == c.REBUILT]
    refused = world.said(world.harmful.asked, [shot.pushes[0] for shot in own])
    head = shots[0]
    pushed = world.speaker.gaps(world.harmful.asked, head.pushes, world.on.refusing)[0]
    figures = [*_before(world), *_head(world, chosen, shots)]
    for shot in shots:
        figures += _harmless(world, shot)
    for shot, said in zip(own, refused, strict=True):
        figures.append(tell.mean(REFUSED, said.refused, slice=shot.slice, control=shot.control))
    figures += missing
    figures += _by_data(world, head.replies[0], refused[0])
    detail: dict[str, Any] = {
        "random_sets": [list(each) for each in sets],
        "random_induced": {s.control: s.rates for s in shots if s.drawn},
        "frontier": _frontier(own, refused),
        "harmless_replies": [
            {"prompt": prompt, "reply": reply}
            for prompt, reply in zip(world.harmless.texts, head.replies[0].texts, strict=True)
        ][:SHOWN],
        "harmful_replies": stored(
            refused[0], world.harmful.texts, pushed, keep=spec.keep_completions
        ),
    }
    judged: list[tuple[str, str | None, Side, Scored]] = [
        ("baseline,harmless", None, world.harmless, world.harmless.plain),
        ("baseline,harmful", None, world.harmful, world.harmful.plain),
        ("harmless", None, world.harmless, head.replies[0]),
        ("harmful", None, world.harmful, refused[0]),
    ]
    if spec.suppress:
        more, kept = _suppressed(world, chosen, sets)
        figures += more
        detail["suppress"] = kept
    return Outcome(figures, detail, judged)


def _before(world: World) -> Iterator[Figure]:
    for metric, side in zip(BEFORE, (world.harmful, world.harmless), strict=True):
        yield tell.mean(metric, side.plain.refused)
        for name, which in _data(side).items():
            yield tell.mean(metric, side.plain.refused[which], slice=f"data={name}")


def _head(world: World, chosen: Chosen, shots: Sequence[Shot]) -> Iterator[Figure]:
    """What there is of the chosen features alone."""
    yield Figure(FEATURES, float(len(chosen.features)))
    yield Figure(STRENGTH, chosen.strength)
    random = next((shot for shot in shots if shot.control == c.FEATURES), None)
    if random is None:
        yield tell.null(P_VALUE, "too few features fire on the selection prompts")
    else:
        p = tell.p_value(shots[0].rates[0], random.rates)
        yield Figure(P_VALUE, p, n=len(random.rates), seed=world.spec.seed)
    less = without(chosen.sae, chosen.listed, chosen.features, world.spec)
    gone = world.speaker.gaps(world.harmful.asked, [less], world.on.refusing)[0]
    yield tell.fall(NECESSITY, world.harmful.gaps, gone)


def _harmless(world: World, shot: Shot) -> Iterator[Figure]:
    """A shot's rows: the mean over its draws and, of many, the one that induces most."""
    seed = world.spec.seed if shot.drawn else None
    every = range(len(shot.pushes))
    yield from _rows(world, shot, list(every), shot.control, seed)
    if shot.drawn:
        worst = max(every, key=lambda i: (shot.rates[i], -i))
        yield from _rows(world, shot, [worst], f"{shot.control}{c.WORST}", seed)


def _rows(
    world: World, shot: Shot, which: Sequence[int], control: str | None, seed: int | None
) -> Iterator[Figure]:
    some = [shot.replies[i] for i in which]
    how: dict[str, Any] = {"slice": shot.slice, "control": control, "seed": seed}
    yield tell.mean(INDUCED, np.mean([s.refused for s in some], axis=0), **how)
    formed = [s.formed for s in some if s.formed is not None]
    if formed:
        yield tell.mean(WELLFORMED, np.mean(formed, axis=0), **how)
    elif control is None and shot.slice == KEPT:
        yield tell.null(WELLFORMED, NO_FORM)
    yield tell.mean(GAP, shot.gaps[list(which)].mean(0) - world.harmless.gaps, **how)
    yield tell.mean(DISTINCT, np.mean([s.distinct for s in some], axis=0), **how)
    if shot.harms:
        harms = [shot.harms[i] for i in which]
        for metric, name in ((KL, "kl"), (CE, "ce")):
            sums = np.mean([getattr(each, name) for each in harms], axis=0)
            yield tell.per_token(metric, sums, harms[0], **how)


def _data(side: Side) -> dict[str, list[int]]:
    """The prompts of each data set, where there are several."""
    found: dict[str, list[int]] = {}
    for number, name in enumerate(side.data):
        found.setdefault(name, []).append(number)
    return found if len(found) > 1 else {}


def _by_data(world: World, harmless: Scored, harmful: Scored) -> Iterator[Figure]:
    for metric, side, said in (
        (INDUCED, world.harmless, harmless),
        (REFUSED, world.harmful, harmful),
    ):
        for name, which in _data(side).items():
            yield tell.mean(metric, said.refused[which], slice=f"data={name}")


def _frontier(own: Sequence[Shot], refused: Sequence[Scored]) -> list[dict[str, Any]]:
    """Refusal, over-refusal and KL at each length of edit and in each way."""
    return [
        {
            "slice": shot.slice if shot.control is None else shot.control,
            "refused": float(said.refused.mean()),
            "over_refused": shot.rates[0],
            "kl": float(shot.harms[0].kl.sum() / shot.harms[0].n.sum()) if shot.harms else None,
        }
        for shot, said in zip(own, refused, strict=True)
    ]


def _suppressed(
    world: World, chosen: Chosen, sets: Sequence[tuple[int, ...]]
) -> tuple[list[Figure], dict[str, Any]]:
    """Refusal on harmful prompts, made less."""
    spec, side = world.spec, world.harmful
    named_ = suppressing(chosen, spec.at)
    beside = clamped_sets(chosen, sets, spec.at)
    said = world.said(side.asked, [*named_.values(), *beside])
    gaps = world.speaker.gaps(side.asked, list(named_.values()), world.on.refusing)
    figures: list[Figure] = []
    detail: dict[str, Any] = {"marked": "refusal was suppressed here, because the spec asked"}
    for i, (name, replies) in enumerate(zip(named_, said, strict=False)):
        figures.append(
            tell.fall(SUPPRESSED, side.plain.refused, replies.refused, slice=f"{SUPPRESS},{name}")
        )
        detail[name] = stored(replies, side.texts, gaps[i], keep=spec.keep_completions)
    if beside:
        others = [each.refused for each in said[len(named_) :]]
        figures.append(
            tell.fall(
                SUPPRESSED, side.plain.refused, np.mean(others, axis=0), slice=f"{SUPPRESS},clamp",
                control=c.FEATURES, seed=spec.seed,
            )
        )  # fmt: skip
    return figures, detail
