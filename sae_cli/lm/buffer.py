"""Accepted tokens of one part, waiting to fill blocks.

It knows which document each token is of, and cuts; what comes in is decided elsewhere.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_cli.lm.encode import Tokens


class Piece(NamedTuple):
    """A run of tokens of one document; enough to find them again in the source."""

    source: int
    """Number of the source in the spec."""
    item: int
    """Number of the document in its source."""
    document: int
    """Number of the document in the run."""
    position: int
    """Place of the first token in its document."""
    length: int
    """Tokens, at least 1."""


@dataclass(frozen=True, eq=False)
class Cut:
    """`n` full blocks of `C` tokens; all arrays [n, C]."""

    tokens: NDArray[np.int32]
    """Token ids."""
    source: NDArray[np.int32]
    """Number of the source in the spec."""
    document: NDArray[np.int64]
    """Number of the document in the run."""
    position: NDArray[np.int32]
    """Place in the document."""
    reasons: NDArray[np.uint8]
    """What the documents themselves say: ROLE or nothing."""


class Buffer:
    """Tokens of one part: accepted and not yet given out, and how many are still to come."""

    def __init__(self, wanted: int, given: int, context: int) -> None:
        """`wanted` and `given` count blocks of `context` tokens."""
        self.wanted, self.given, self.context = wanted, given, context
        self._pieces: deque[tuple[Piece, Tokens]] = deque()
        self._held = 0

    @property
    def room(self) -> int:
        """Tokens that can still be accepted."""
        return (self.wanted - self.given) * self.context - self._held

    @property
    def waiting(self) -> tuple[Piece, ...]:
        """What is accepted and not yet given out."""
        return tuple(piece for piece, _ in self._pieces)

    def add(self, piece: Piece, tokens: Tokens) -> None:
        """Accept the `piece.length` tokens from `piece.position` on of a document's `tokens`."""
        span = slice(piece.position, piece.position + piece.length)
        held = Tokens(tokens.ids[span], tokens.reasons[span])
        assert 0 < piece.length == len(held.ids) <= self.room
        self._pieces.append((piece, held))
        self._held += piece.length

    def cut(self, group: int) -> Cut | None:
        """The next `group` blocks, or the last ones if fewer are wanted; None if not yet full."""
        blocks = min(group, self.wanted - self.given)
        missing = blocks * self.context
        if not blocks or self._held < missing:
            return None
        self._held -= missing
        self.given += blocks
        taken: list[tuple[Piece, Tokens]] = []
        while missing:
            piece, held = self._pieces.popleft()
            if piece.length > missing:
                rest = piece._replace(
                    position=piece.position + missing, length=piece.length - missing
                )
                self._pieces.appendleft((rest, Tokens(held.ids[missing:], held.reasons[missing:])))
                piece = piece._replace(length=missing)
                held = Tokens(held.ids[:missing], held.reasons[:missing])
            taken.append((piece, held))
            missing -= piece.length
        shape = (blocks, self.context)
        lengths = [piece.length for piece, _ in taken]
        source = np.array([piece.source for piece, _ in taken], np.int32)
        number = np.array([piece.document for piece, _ in taken], np.int64)
        places = [np.arange(p.position, p.position + p.length, dtype=np.int32) for p, _ in taken]
        return Cut(
            tokens=np.concatenate([held.ids for _, held in taken]).reshape(shape),
            source=np.repeat(source, lengths).reshape(shape),
            document=np.repeat(number, lengths).reshape(shape),
            position=np.concatenate(places).reshape(shape),
            reasons=np.concatenate([held.reasons for _, held in taken]).reshape(shape),
        )
