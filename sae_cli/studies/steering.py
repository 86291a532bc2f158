"""Whether a few features make a model refuse: found on some prompts, chosen on others, told of a
third, beside everything else of the same size.

After the case study of the Qwen3-Instruct suite (arXiv 2606.26620), Arditi et al. (2024, arXiv
2406.11717: refusal gap, difference in means) and O'Brien et al. (2024, arXiv 2411.11296: clamped
features, over-refusal). Formulas stand with the parts: `steer.detect` (how features tell the kinds
apart), `steer.choice` (which and how hard), `steer.edits` (what is done), `steer.trial` (what comes
of it). Steering is shown here, and is no safeguard. To make a model refuse less is asked for by
name, `suppress`, and marked wherever it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sae_cli.sae.base import SAE
from sae_cli.sae.controls import SEED
from sae_cli.spec.steering import SteeringStudy
from sae_cli.studies import resample
from sae_cli.studies.bench import Bench, Figure, Findings
from sae_cli.studies.steer import choice, controls, tell
from sae_cli.studies.steer.edits import add
from sae_cli.studies.steer.judged import judged
from sae_cli.studies.steer.shortlist import Listed, listed
from sae_cli.studies.steer.shots import INDUCED
from sae_cli.studies.steer.trial import BEFORE, FEATURES, REFUSED, STRENGTH, tested
from sae_cli.studies.steer.ways import Chosen
from sae_cli.studies.steer.world import World, opened

TRANSCODER = "a transcoder does not write where it reads, so its latents can't be pushed there"
NEVER = "the model refused none of the harmful selection prompts, so no token begins a refusal"
NONE = "no feature fires more on either kind of prompt in the direction of their difference"
ON_VALIDATION = 8
"""Random sets that a strength is held against."""


def run(spec: SteeringStudy, bench: Bench) -> dict[str, Findings]:
    """What is found of each of the bench's SAEs, by key. Raises DataError and JudgeError."""
    if set(bench.saes) <= bench.transcoders:
        return {key: Findings(_null(TRANSCODER), {}, {}) for key in bench.saes}
    world = opened(spec, bench)
    method = {
        **spec.model_dump(mode="json", exclude=_elsewhere(spec)), **world.record,
        "bootstrap": {**resample.METHOD, "unit": "test prompt, or document of text"},
        "random_seed": SEED, "suppress": spec.suppress,
    }  # fmt: skip
    found = {}
    for key, sae in bench.saes.items():
        if key in bench.transcoders:
            found[key] = Findings(_null(TRANSCODER), {}, method)
        else:
            bench.note(f"steering {key}: {len(world.tokens)} tokens begin a refusal")
            found[key] = _one(world.of(key), sae, dict(method), f"steering {key}:")
    return found


def _elsewhere(spec: SteeringStudy) -> Any:
    """What a record of the method leaves out: where files lie, and whom the judge is asked by."""
    places = {name: {i: {"path"} for i in range(len(some))} for name, some in spec.sets.items()}
    return {**places, "judge": True}


def _one(world: World, sae: SAE, method: dict[str, Any], whose: str) -> Findings:
    spec, note = world.spec, world.bench.note
    before = [
        tell.mean(metric, side.plain.refused)
        for metric, side in zip(BEFORE, (world.harmful, world.harmless), strict=True)
    ]
    if not world.tokens:
        return Findings([*before, *_null(NEVER)], {}, method)
    some = listed(sae, world.site, spec)
    if not some.features:
        return Findings([*before, *_null(NONE)], {}, method)
    note(f"{whose} trying {len(some.features)} features on validation prompts")
    best, every = choice.tried(sae, some, spec, world.on)
    direction = choice.direction(sae, some, best.features)
    strength, curve = choice.strength_of(spec, _rates(world, sae, some, best.features))
    chosen = Chosen(sae, some, best.features, direction, strength, world.site.norm)
    names = "feature " + " and ".join(map(str, best.features))
    note(f"{whose} {names} at strength {strength:.3g} on test prompts, beside controls")
    outcome = tested(world, chosen)
    detail = {
        "features": [
            {"feature": i, "weight": some.weights[i], **some.told[i]} for i in best.features
        ],
        "strength": strength,
        "cosine_to_difference_in_means": float(
            direction.double() @ (world.site.direction / world.site.direction.norm())
        ),
        "shortlist": [
            {"feature": i, "weight": some.weights[i], **some.told[i]} for i in some.features
        ],
        "tried": choice.plain_of(every),
        "validation": curve,
        **outcome.detail,
    }
    if spec.judge is not None:
        more, method["judge"] = judged(spec.judge, world, outcome.judged)
        method["judge_model"] = spec.judge.model
        outcome.figures += more
    return Findings(outcome.figures, detail, method)


def _rates(world: World, sae: SAE, some: Listed, features: Sequence[int]) -> choice.Rates:
    """Refusals on harmless validation prompts, by strength."""
    spec, on = world.spec, world.on
    own = choice.direction(sae, some, features)
    weights = [some.weights[i] for i in features]
    sets = controls.random_sets(some, features, min(ON_VALIDATION, spec.random), spec.seed + 1)
    rows = [own, *(controls.along(sae, each, weights) for each in sets)]

    def rates(strengths: Sequence[float]) -> tuple[Any, Any]:
        pushes = [add(a * on.norm * row, spec.at) for a in strengths for row in rows]
        said = world.said(on.harmless, pushes)
        found = np.array([each.refused.mean() for each in said]).reshape(len(strengths), -1)
        if world.builtin:  # broken refusals are none
            formed = [0.0 if each.formed is None else float(each.formed.mean()) for each in said]
            found[:, 0] = np.array(formed).reshape(len(strengths), -1)[:, 0]
        beside = found[:, 1:].mean(1) if sets else np.zeros(len(strengths))
        return found[:, 0], beside

    return rates


def _null(reason: str) -> list[Figure]:
    """What can't be had of an SAE."""
    return [tell.null(metric, reason) for metric in (INDUCED, REFUSED, FEATURES, STRENGTH)]
