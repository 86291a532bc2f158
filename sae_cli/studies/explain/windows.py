"""A fair sample of the windows in which each latent fires, and of those in which it does not.

Each window has a priority for each latent, a hash of (seed, window, latent), and the lowest are
kept: a sample without replacement that depends neither on batches nor on what else is studied.
Memory is a fixed number of windows for each latent, however long the text.
"""

from __future__ import annotations

import numpy as np

from sae_cli.studies.explain.arrays import Acts, Flags, Hashes, Ints

HELD = 256
"""Windows of each kind that are kept for a latent."""
NONE = np.uint64(2**64 - 1)


class Windows:
    """Samples for `latents` (their ids), of windows of `size` tokens."""

    def __init__(self, latents: Ints, size: int, seed: int, held: int = HELD) -> None:
        self.latents, self._seed, self._held = latents, seed, held
        shape = (held, len(latents))
        self._rank = {kind: np.full(shape, NONE) for kind in (True, False)}
        self._number = {kind: np.zeros(shape, dtype=np.int64) for kind in (True, False)}
        self._values = np.zeros((*shape, size), dtype=np.float32)
        self.fired = np.zeros(len(latents), dtype=np.int64)
        """[latents]: windows in which each fired."""

    def add(self, numbers: Ints, values: Acts, counts: Flags) -> None:
        """Windows `numbers [n]` and what their tokens' latents are, `values [n, size, latents]`,
        zero where a token does not count; `counts [n]` says whether any does."""
        fires = values.max(1) > 0
        self.fired += fires.sum(0)
        rank = hashed(self._seed, numbers, self.latents)
        order, moved = self._choose(True, np.where(fires, rank, NONE), numbers)
        if moved:
            both = np.concatenate([self._values, values.transpose(0, 2, 1)])
            self._values = np.take_along_axis(both, order[:, :, None], axis=0)
        self._choose(False, np.where(~fires & counts[:, None], rank, NONE), numbers)

    def with_it(self, latent: int) -> tuple[Ints, Acts]:
        """Numbers [n] and activations [n, size] of windows where it fires, in a random order."""
        numbers, order = self._sorted(True, latent)
        return numbers, self._values[order, latent]

    def without_it(self, latent: int) -> Ints:
        """Numbers [n] of windows where it does not, in a random order."""
        return self._sorted(False, latent)[0]

    def _sorted(self, kind: bool, latent: int) -> tuple[Ints, Ints]:
        rank = self._rank[kind][:, latent]
        order = np.argsort(rank, kind="stable")[: int((rank != NONE).sum())]
        return self._number[kind][order, latent], order

    def _choose(self, kind: bool, rank: Hashes, numbers: Ints) -> tuple[Ints, bool]:
        """The rows of (held, new) that are held from now on, and whether any is new."""
        moved = bool((rank < self._rank[kind].max(0)).any())
        if not moved:
            return np.zeros((0, 0), dtype=np.int64), False
        both = np.concatenate([self._rank[kind], rank])
        order = np.argpartition(both, self._held - 1, axis=0)[: self._held]
        every = np.broadcast_to(numbers[:, None], rank.shape)
        known = np.concatenate([self._number[kind], every])
        self._rank[kind] = np.take_along_axis(both, order, axis=0)
        self._number[kind] = np.take_along_axis(known, order, axis=0)
        return order, True


def hashed(seed: int, numbers: Ints, latents: Ints) -> Hashes:
    """uint64 `[numbers, latents]`, as good as random (the finalizer of SplitMix64, Steele et al.
    2014, Fast Splittable Pseudorandom Number Generators, twice)."""
    return paired(seed, numbers[:, None], latents)


def paired(seed: int, numbers: Ints, latents: Ints) -> Hashes:
    """The same for arrays of any shapes that broadcast: of each number with its latent."""
    with np.errstate(over="ignore"):
        one = _mixed(numbers.astype(np.uint64) * np.uint64(2) + np.uint64(1) + _mixed(_one(seed)))
        return np.minimum(_mixed(one ^ _mixed(latents.astype(np.uint64))), NONE - _ONE)


_ONE = np.uint64(1)


def _one(seed: int) -> Hashes:
    return np.array([seed % 2**64], dtype=np.uint64)


def _mixed(x: Hashes) -> Hashes:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
