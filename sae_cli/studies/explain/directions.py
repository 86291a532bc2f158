"""What an SAE is held against here: dictionaries whose directions nobody learnt.

A latent is the part of an activation along a unit row, f = D (x - m), and it fires where it is
positive and among the token's k largest, so that as many fire as the SAE has. Rows are the
coordinates of the site (`neurons`, D = 1), or as many random ones as the SAE has latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_cli.sae.base import SAE
from sae_cli.sae.controls import random_rows
from sae_cli.sae.selection import top_k
from sae_cli.studies.bench import Bench
from sae_cli.studies.explain.gather import ROWS

NAMES = ("neurons", "random")
L0_TOKENS = 2**14
"""Training tokens, the first ones, that an SAE's L0 is counted on."""


@dataclass(frozen=True)
class Directions:
    """Rows, the mean that they are about, and how many fire."""

    mean: Tensor
    """float32 [d]"""
    rows: Tensor | None
    """float32 [n, d]; None: the coordinates."""
    k: int

    @property
    def d_sae(self) -> int:
        return len(self.mean if self.rows is None else self.rows)

    def encode(self, x: Tensor) -> Tensor:
        """`[n, d_sae]` of `x [n, d]`, at most k above zero."""
        s = x.float() - self.mean
        if self.rows is not None:
            s = s @ self.rows.T
        values, at = top_k(s, min(self.k, self.d_sae))
        return torch.zeros_like(s).scatter_(1, at, values.clamp_min(0.0))


def fires(sae: SAE, x: Tensor) -> int:
    """How many latents that is, over all of `x [n, d]`."""
    return int((sae.encode(x) != 0).sum())


def l0s(bench: Bench) -> dict[str, int]:
    """Latents that fire on a token, a whole number and at least 1, of each SAE."""
    fired, tokens = dict.fromkeys(bench.saes, 0), 0
    for seen in bench.text("train", L0_TOKENS):
        rows = seen.acts[seen.keep]
        tokens += len(rows)
        for key, sae in bench.saes.items():
            fired[key] += sum(fires(sae, part) for part in torch.split(rows, ROWS))
    return {key: max(1, int(each / max(1, tokens) + 0.5)) for key, each in fired.items()}


def directions(bench: Bench) -> dict[str, dict[str, Directions]]:
    """For each SAE the controls by their names; SAEs of one L0 and size share theirs."""
    rows: dict[int, Tensor] = {}
    made: dict[tuple[str, int, int], Directions] = {}
    out: dict[str, dict[str, Directions]] = {}
    mean = bench.mean.float().to(bench.device)
    for key, k in l0s(bench).items():
        n = bench.saes[key].d_sae
        if n not in rows:
            rows[n] = random_rows(n, len(mean), bench.device)
        for name in NAMES:
            which = (name, k, n if name == "random" else 0)
            base = rows[n] if name == "random" else None
            made.setdefault(which, Directions(mean, base, k))
            out.setdefault(key, {})[name] = made[which]
    return out
