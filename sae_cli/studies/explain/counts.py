"""How often, and how strongly, a latent fires on each suffix: sums by (latent, suffix).

They are sparse: only what fired is kept, never tokens by latents. What has come since the last
merge is bounded, and what is merged has at most one entry for each latent and suffix of the text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sae_cli.studies.explain.arrays import Floats, Ints

PENDING = 2**22
"""Entries that may wait to be merged."""


@dataclass(frozen=True)
class Fired:
    """Where one latent fired."""

    suffixes: Ints
    """[n], ascending, each once."""
    times: Floats
    """[n]: tokens."""
    total: Floats
    """[n]: the sum of their activations."""


class Counts:
    """Those of `latents` latents, numbered from 0."""

    def __init__(self, latents: int) -> None:
        self._latents, self._pending, self._waiting = latents, list[tuple[Ints, Ints, Floats]](), 0
        nothing = np.zeros(0, dtype=np.int64)
        self._latent, self._suffix = nothing, nothing
        self._times, self._total = np.zeros(0), np.zeros(0)
        self.squares = np.zeros(latents)
        """float64 [latents]: the sum of squared activations."""

    def add(self, latent: Ints, suffix: Ints, value: Floats) -> None:
        """Activations that are not zero, all [n]."""
        self.squares += np.bincount(latent, value**2, self._latents)
        self._pending.append((latent, suffix, value))
        self._waiting += len(latent)
        if self._waiting > PENDING:
            self._merge()

    def of(self, latent: int) -> Fired:
        """Where one of them fired."""
        self._merge()
        start, stop = np.searchsorted(self._latent, [latent, latent + 1])
        there = slice(start, stop)
        return Fired(self._suffix[there], self._times[there], self._total[there])

    def _merge(self) -> None:
        if not self._pending:
            return
        latent = np.concatenate([self._latent, *(each[0] for each in self._pending)])
        suffix = np.concatenate([self._suffix, *(each[1] for each in self._pending)])
        times = np.concatenate([self._times, np.ones(self._waiting)])
        total = np.concatenate([self._total, *(each[2] for each in self._pending)])
        self._pending, self._waiting = [], 0
        if not len(latent):
            return
        order = np.lexsort((suffix, latent))
        latent, suffix = latent[order], suffix[order]
        new = np.ones(len(latent), dtype=bool)
        new[1:] = (latent[1:] != latent[:-1]) | (suffix[1:] != suffix[:-1])
        first = new.nonzero()[0]
        self._latent, self._suffix = latent[first], suffix[first]
        self._times = np.add.reduceat(times[order], first)
        self._total = np.add.reduceat(total[order], first)
