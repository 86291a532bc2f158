"""What stands in the chosen features' place, with an edit of the same length.

Random sets are as large as the chosen one and carry its weights; they are drawn from features that
fire on selection prompts, without those that were chosen. The unrelated feature fires about as
often as the chosen set's first and has a decoder row at about a right angle to the difference of
the means.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sae_cli.sae.base import SAE
from sae_cli.sae.controls import SEED
from sae_cli.studies.steer.shortlist import Listed

FEATURES, DIRECTIONS = "random_features", "random_directions"
WORST = "_worst"
MEANS, UNRELATED, OPPOSITE, REBUILT = (
    "difference_in_means", "unrelated_feature", "opposite_sign", "reconstruction",
)  # fmt: skip
ANGLE = 0.2
"""Largest |cosine| of an unrelated feature, where one has so small a one."""


def random_sets(
    listed: Listed, chosen: Sequence[int], count: int, seed: int
) -> list[tuple[int, ...]]:
    """`count` sets of as many live features as `chosen` has; [] where there are too few."""
    left = [i for i in listed.live if i not in chosen]
    if len(left) < max(len(chosen), 2):
        return []
    dice = np.random.default_rng([SEED, seed, 1])
    if len(chosen) == 1:  # each once, as long as there are enough
        rounds = [dice.permutation(left) for _ in range(-(-count // len(left)))]
        return [(int(i),) for i in np.concatenate(rounds)[:count]]
    return [tuple(int(i) for i in dice.choice(left, len(chosen), replace=False))
            for _ in range(count)]  # fmt: skip


def along(sae: SAE, which: Sequence[int], weights: Sequence[float]) -> Tensor:
    """float32 [d], unit norm: decoder rows by weights."""
    w = torch.tensor(list(weights), device=sae.W_dec.device, dtype=torch.float32)
    v: Tensor = w @ sae.W_dec[list(which)].float()
    return v.div(v.norm())


def random_directions(d: int, count: int, seed: int, device: torch.device) -> list[Tensor]:
    """`count` directions, float32 [d], evenly from the unit sphere; the same on every device."""
    dice = torch.Generator().manual_seed(SEED + seed)
    rows = torch.nn.functional.normalize(torch.randn(count, d, generator=dice), dim=1)
    return [row.to(device) for row in rows]


def unrelated(listed: Listed, chosen: Sequence[int]) -> int | None:
    """The live feature whose rate is nearest to that of the first of `chosen`, of those that are
    about at a right angle to the difference of the means; None where nothing else is live."""
    left = np.array([i for i in listed.live if i not in listed.features and i not in chosen])
    if not len(left):
        return None
    angles = np.abs(listed.cosines[left])
    good = left[angles <= max(ANGLE, float(angles.min()))]
    apart = np.abs(listed.rates[good] - listed.rates[chosen[0]])
    return int(good[int(apart.argmin())])
