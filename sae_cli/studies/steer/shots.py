"""What is tried on test prompts: the chosen features, other lengths and ways, and the controls.

All controls but the reconstruction have an edit of the same length as the chosen one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sae_cli.studies.bench import Figure
from sae_cli.studies.steer import controls as c
from sae_cli.studies.steer import tell
from sae_cli.studies.steer.edits import Push, add, rebuild
from sae_cli.studies.steer.harm import Harm
from sae_cli.studies.steer.replies import Scored
from sae_cli.studies.steer.tell import KEPT
from sae_cli.studies.steer.ways import Chosen, detector, named, way
from sae_cli.studies.steer.world import World

Floats = NDArray[np.float64]
INDUCED = "steering.induced_v1"


@dataclass
class Shot:
    """Some pushes that make one row, or two: their mean, and the one that induces most."""

    slice: str
    control: str | None
    pushes: list[Push]
    text: bool = True
    """Whether its harm to text is measured."""
    replies: list[Scored] = field(default_factory=list)
    gaps: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    harms: list[Harm] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Of each push, the share of harmless prompts refused."""
        return [float(each.refused.mean()) for each in self.replies]

    @property
    def drawn(self) -> bool:
        """Whether it is many draws of one control."""
        return self.control in (c.FEATURES, c.DIRECTIONS)


def shots_of(
    world: World, chosen: Chosen
) -> tuple[list[Shot], list[Figure], list[tuple[int, ...]]]:
    """What is tried on harmless prompts, the chosen push first; what can't be; the random sets."""
    spec, sae, listed = world.spec, chosen.sae, chosen.listed
    length = chosen.strength * chosen.norm
    shots = [Shot(KEPT, None, [add(chosen.vector(chosen.strength), spec.at)])]
    shots += [
        Shot(f"alpha={a:g}", None, [add(chosen.vector(a), spec.at)])
        for a in spec.strengths
        if a != chosen.strength
    ]
    missing: list[Figure] = []
    gate = detector(chosen, world.site)
    for asked in spec.also:
        push = way(asked, chosen, gate)
        if push is None:
            why = "no feature on the shortlist fires more on harmful prompts"
            missing.append(tell.null(INDUCED, why, slice=named(asked)))
        else:
            shots.append(Shot(named(asked), None, [push], text=False))
    sets = c.random_sets(listed, chosen.features, spec.random, spec.seed)
    weights = [listed.weights[i] for i in chosen.features]
    if sets:
        rows = [c.along(sae, each, weights) for each in sets]
        shots.append(Shot(KEPT, c.FEATURES, [add(length * row, spec.at) for row in rows]))
    else:
        why = "too few features fire on the selection prompts"
        missing.append(tell.null(INDUCED, why, control=c.FEATURES))
    rows = c.random_directions(sae.d_in, spec.random, spec.seed, world.bench.device)
    shots.append(Shot(KEPT, c.DIRECTIONS, [add(length * row, spec.at) for row in rows]))
    means = (world.site.direction / world.site.direction.norm()).float()
    other = c.unrelated(listed, chosen.features)
    single: dict[str, Push | None] = {
        c.MEANS: add(length * means, spec.at),
        c.UNRELATED: None if other is None else add(
            length * c.along(sae, [other], [1.0]), spec.at
        ),
        c.OPPOSITE: add(chosen.vector(-chosen.strength), spec.at),
        c.REBUILT: rebuild(sae, spec.at),
    }  # fmt: skip
    for name, push in single.items():
        if push is None:
            missing.append(tell.null(INDUCED, "no other feature is live", control=name))
        else:
            shots.append(Shot(KEPT, name, [push]))
    return shots, missing, sets
