"""The text of a split as a study has read it, and the suffixes that patterns are made of.

A suffix of a token is the token and up to two before it in its block, as one integer: with ids
t + 1 (0: the block begins here) to the base B, the token's own id is the last digit. So a shorter
suffix is the remainder by a power of B. Thirteen bytes a token are kept, and no activation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sae_cli.studies.explain.arrays import Flags, Ints, Tokens


@dataclass
class Text:
    """Blocks, as they come."""

    window: int
    """Tokens of a window; a shorter rest at the end of a block is in none."""
    base: int
    """Larger than any token's id plus one."""
    order: int
    """Tokens of a suffix."""
    blocks: int = 0
    """Blocks that have come."""
    _tokens: list[Tokens] = field(default_factory=list)
    _keep: list[Flags] = field(default_factory=list)
    _documents: list[Ints] = field(default_factory=list)

    def add(self, tokens: Tokens, keep: Flags, documents: Ints) -> None:
        """The next blocks, all [b, C]."""
        self._tokens.append(tokens)
        self._keep.append(keep)
        self._documents.append(documents)
        self.blocks += len(tokens)

    def close(self) -> None:
        """All blocks are here."""
        self.tokens = np.concatenate(self._tokens)
        """int32 [n, C]"""
        self.keep = np.concatenate(self._keep)
        """bool [n, C]: the tokens that count."""
        self.documents = np.concatenate(self._documents)
        """int64 [n, C]"""
        self._tokens, self._keep, self._documents = [], [], []

    def suffixes(self, tokens: Tokens) -> Ints:
        """int64 [b, C]: the suffix of each of `tokens` [b, C]."""
        ids = tokens.astype(np.int64) + 1
        out = ids.copy()
        for back in range(1, min(self.order, ids.shape[1])):
            out[:, back:] += ids[:, :-back] * self.base**back
        return out

    def kept_suffixes(self) -> Ints:
        """int64 [n]: those of the tokens that count, in their order."""
        return self.suffixes(self.tokens)[self.keep]

    def windows(self, numbers: Ints) -> tuple[Tokens, Flags, Ints]:
        """Tokens, whether they count, and suffixes, all `[n, window]`, of windows `numbers`."""
        per = self.tokens.shape[1] // self.window
        block, start = numbers // per, numbers % per * self.window
        columns = start[:, None] + np.arange(self.window)
        rows = block[:, None]
        suffixes = self.suffixes(self.tokens[block])
        here = np.arange(len(numbers))[:, None]
        return self.tokens[rows, columns], self.keep[rows, columns], suffixes[here, columns]

    def documents_of(self, numbers: Ints) -> set[int]:
        """The documents that windows `numbers` have tokens of."""
        per = self.tokens.shape[1] // self.window
        columns = (numbers % per * self.window)[:, None] + np.arange(self.window)
        return set(self.documents[(numbers // per)[:, None], columns].ravel().tolist())
