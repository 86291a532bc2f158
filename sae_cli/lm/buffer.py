"""Accepted tokens of one part, waiting to fill blocks.

It knows which document each token is of, and cuts; what comes in is decided elsewhere.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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
    """`n` full blocks of `C` tokens: ids, document numbers, places in the document; all [n, C]."""

    tokens: NDArray[np.int32]
    document: NDArray[np.int64]
    position: NDArray[np.int32]


class Buffer:
    """Tokens of one part: accepted and not yet given out, and how many are still to come."""

    def __init__(self, wanted: int, given: int, context: int) -> None:
        """`wanted` and `given` count blocks of `context` tokens."""
        self.wanted, self.given, self.context = wanted, given, context
        self._pieces: deque[tuple[Piece, NDArray[np.int32]]] = deque()
        self._held = 0

    @property
    def room(self) -> int:
        """Tokens that can still be accepted."""
        return (self.wanted - self.given) * self.context - self._held

    @property
    def waiting(self) -> tuple[Piece, ...]:
        """What is accepted and not yet given out."""
        return tuple(piece for piece, _ in self._pieces)

    def add(self, piece: Piece, ids: NDArray[np.int32]) -> None:
        """Accept `ids` [piece.length]."""
        assert 0 < piece.length == len(ids) <= self.room
        self._pieces.append((piece, ids))
        self._held += piece.length

    def cut(self, group: int) -> Cut | None:
        """The next `group` blocks, or the last ones if fewer are wanted; None if not yet full."""
        blocks = min(group, self.wanted - self.given)
        missing = blocks * self.context
        if not blocks or self._held < missing:
            return None
        self._held -= missing
        self.given += blocks
        taken: list[tuple[Piece, NDArray[np.int32]]] = []
        while missing:
            piece, ids = self._pieces.popleft()
            if piece.length > missing:
                rest = piece._replace(
                    position=piece.position + missing, length=piece.length - missing
                )
                self._pieces.appendleft((rest, ids[missing:]))
                piece, ids = piece._replace(length=missing), ids[:missing]
            taken.append((piece, ids))
            missing -= piece.length
        shape = (blocks, self.context)
        number = np.array([piece.document for piece, _ in taken], np.int64)
        places = [np.arange(p.position, p.position + p.length, dtype=np.int32) for p, _ in taken]
        return Cut(
            tokens=np.concatenate([ids for _, ids in taken]).reshape(shape),
            document=np.repeat(number, [p.length for p, _ in taken]).reshape(shape),
            position=np.concatenate(places).reshape(shape),
        )
