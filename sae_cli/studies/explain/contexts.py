"""Which suffixes of a text are known well enough to predict from: a tree, shared by all latents.

A token's context is the longest of its suffixes that training text has at least LEAST times; for a
token alone once is enough, and what is not there at all has the root. Longer suffixes are children
of the shorter, so a context stands for the tokens that none of its children has.
"""

from __future__ import annotations

import numpy as np

from sae_cli.studies.explain.arrays import Floats, Ints

LEAST = 3
"""Times that a suffix of several tokens has to be there."""


class Contexts:
    """Nodes: 0 is the root, then those of one token, of two, of three, each ascending."""

    def __init__(self, suffixes: Ints, base: int, order: int) -> None:
        """`suffixes [n]` are those of all training tokens that count."""
        self.base, self.order = base, order
        self._starts, self._known = [1], list[Ints]()
        parents = [np.zeros(1, dtype=np.int64)]
        for n in range(1, order + 1):
            keys, times = np.unique(suffixes % base**n, return_counts=True)
            known = keys[times >= (1 if n == 1 else LEAST)]
            parents.append(self.of(known % base ** (n - 1)))  # the root, of one token
            self._known.append(known)
            self._starts.append(self._starts[-1] + len(known))
        self.parents = np.concatenate(parents)
        """int64 [nodes]"""
        self._below = np.argsort(self.parents, kind="stable")
        self._above = self.parents[self._below]
        self.times = self.sums(self.of(suffixes), np.ones(len(suffixes)))
        """float64 [nodes]: training tokens that have the node as their context."""
        self.all_times = self.upward(self.times)
        """float64 [nodes]: those of its children, and theirs, as well."""

    def __len__(self) -> int:
        return self._starts[-1]

    def of(self, suffixes: Ints) -> Ints:
        """int64 [n]: the context of each of `suffixes [n]`."""
        out = np.zeros(len(suffixes), dtype=np.int64)
        for n, known in enumerate(self._known, 1):
            keys = suffixes % self.base**n
            at = np.searchsorted(known, keys)
            there = at < len(known)
            there[there] = known[at[there]] == keys[there]
            there &= out >= (self._starts[n - 2] if n > 1 else 0)
            out[there] = self._starts[n - 1] + at[there]
        return out

    def sums(self, nodes: Ints, values: Floats) -> Floats:
        """float64 [nodes]: `values [n]` summed by their context."""
        return np.bincount(nodes, values, len(self)).astype(np.float64)

    def upward(self, values: Floats) -> Floats:
        """Each node's value and those of all below it."""
        out = values.copy()
        for level in reversed(self.levels[1:]):
            np.add.at(out, self.parents[level], out[level])
        return out

    @property
    def levels(self) -> list[slice]:
        """Nodes of no token (the root), of one, of two, ..."""
        return [slice(0, 1), *map(slice, self._starts[:-1], self._starts[1:])]

    def children(self, node: int) -> Ints:
        """The nodes just below one, ascending; not for the root."""
        start, stop = np.searchsorted(self._above, [node, node + 1])
        return self._below[start:stop]

    def ids(self, node: int) -> list[int]:
        """The tokens of a node's suffix, first to last; -1 where its block begins."""
        n = next(n for n, level in enumerate(self.levels) if node < level.stop)
        key = 0 if n == 0 else int(self._known[n - 1][node - self._starts[n - 1]])
        digits = []
        for _ in range(n):
            key, digit = divmod(key, self.base)
            digits.append(digit - 1)
        return digits[::-1]


def below(contexts: Contexts, level: int) -> Ints:
    """int64 [nodes]: each node's ancestor of `level` tokens; 0 for nodes above."""
    out = np.zeros(len(contexts), dtype=np.int64)
    start = contexts.levels[level].start
    out[contexts.levels[level]] = np.arange(start, contexts.levels[level].stop)
    for each in contexts.levels[level + 1 :]:
        out[each] = out[contexts.parents[each]]
    return out
