"""Features as columns of values over many tokens: an SAE's latents, and rows that nobody trained.

All latents of a wide SAE over all tokens are too much to hold, so that only those that fire are
kept, and some columns at a time are filled in. Columns of directions are made when they are asked
for. Values depend on the activations alone, never on which columns are asked for together.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from sae_cli.sae.base import SAE

CELLS = 2**24
"""Latents, tokens times width, that are encoded at a time."""


class Features(Protocol):
    """Some features of some tokens."""

    count: int
    """How many features there are."""

    def columns(self, start: int, stop: int) -> Tensor:
        """float32 `[stop - start, tokens]`: the values of features `start`, ..., `stop - 1`."""

    def pick(self, which: Tensor) -> Tensor:
        """float32 `[len(which), tokens]`: those of some, int64."""


class Latents:
    """Those of an SAE."""

    def __init__(self, sae: SAE, acts: Tensor) -> None:
        """`acts [tokens, d_in]`."""
        self.count, self._tokens, self._device = sae.d_sae, len(acts), acts.device
        tokens, latents, values = [], [], []
        step = max(1, CELLS // sae.d_sae)
        for start in range(0, len(acts), step):
            f = sae.encode(acts[start : start + step]).float()
            token, latent = f.nonzero(as_tuple=True)
            tokens.append((token + start).int())
            latents.append(latent.int())
            values.append(f[token, latent])
        nothing = torch.zeros(0, device=self._device)
        latent = torch.cat([nothing.int(), *latents])
        order = latent.argsort(stable=True)
        self._token = torch.cat([nothing.int(), *tokens])[order]
        self._value = torch.cat([nothing, *values])[order]
        fires = torch.bincount(latent, minlength=self.count)
        self._ends = torch.cat([fires.new_zeros(1), fires.cumsum(0)])
        self._latent = latent[order]

    @property
    def fires(self) -> Tensor:
        """int64 `[count]`: on how many tokens each is not zero."""
        return self._ends.diff()

    def columns(self, start: int, stop: int) -> Tensor:
        """float32 `[stop - start, tokens]`."""
        first, last = int(self._ends[start]), int(self._ends[stop])
        found = torch.zeros(stop - start, self._tokens, device=self._device)
        row = self._latent[first:last].long() - start
        found[row, self._token[first:last].long()] = self._value[first:last]
        return found

    def pick(self, which: Tensor) -> Tensor:
        """float32 `[len(which), tokens]`."""
        rows = [self.columns(each, each + 1) for each in which.tolist()]
        return torch.cat(rows) if rows else torch.zeros(0, self._tokens, device=self._device)


class Projections:
    """Onto rows: s = rows (x - mean), as they are, so that a threshold may lie anywhere."""

    def __init__(self, rows: Tensor, mean: Tensor, acts: Tensor) -> None:
        """`rows [count, d]`, `mean [d]`, `acts [tokens, d]`."""
        self.count, self._rows = len(rows), rows
        self._acts = acts - mean.to(acts)

    def columns(self, start: int, stop: int) -> Tensor:
        """float32 `[stop - start, tokens]`."""
        return self._rows[start:stop] @ self._acts.T

    def pick(self, which: Tensor) -> Tensor:
        """float32 `[len(which), tokens]`."""
        return self._rows[which.to(self._rows.device)] @ self._acts.T


def both_signs(d: int, device: torch.device) -> Tensor:
    """float32 `[2 d, d]`: the coordinates, then the same negated."""
    one = torch.eye(d, device=device)
    return torch.cat([one, -one])
