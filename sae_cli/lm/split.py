"""Proof from the blocks themselves that training and held-out documents are apart.

The split is made by hashing text (`encode.part_of`); this looks at what came of it: document
numbers, and the tokens of every document. It reads block after block and remembers 16 bytes for
each held-out document, so its memory does not grow with the training part. A document that is
merely contained in another, or a near copy, is not looked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sae_cli.errors import DataError
from sae_cli.lm.encode import Part

TRIVIAL = 16
"""Shorter documents may come out as the same tokens by chance ("Yes.", "yes ."): not compared."""
_STEP = 2**20  # tokens read at a time


class Blocks(Protocol):
    """What is read of finished blocks; `store.blocks.BlockReader` is one."""

    context: int

    def n_blocks(self, split: str) -> int:
        """Blocks of `split`."""

    def tokens(self, split: str, start: int, stop: int) -> NDArray[np.int32]:
        """Token ids [stop - start, context]."""

    def document(self, split: str, start: int, stop: int) -> NDArray[np.int64]:
        """Document numbers [stop - start, context]."""


def check_split(blocks: Blocks) -> None:
    """Raise DataError if a document number is in both parts, or a held-out document's content.

    Content means the document's token ids, all of them in order; documents of fewer than
    `TRIVIAL` tokens are told apart by number alone.
    """
    numbers: list[int] = []
    contents: dict[bytes, int] = {}
    for number, length, digest in _documents(blocks, "heldout"):
        numbers.append(number)
        if length >= TRIVIAL:
            contents[digest] = number
    heldout = frozenset(numbers)
    for number, length, digest in _documents(blocks, "train"):
        if number in heldout:
            raise DataError(
                f"document {number} is in the training and in the held-out blocks",
                hint="the blocks are not as they were made: remove this stage's folder and run "
                "again.",
            )
        if length >= TRIVIAL and digest in contents:
            raise DataError(
                f"training document {number} has the same {length:,} tokens as held-out document "
                f"{contents[digest]}: two texts that differ became one for this tokenizer",
                hint="remove such near copies from the sources, or choose another data.seed.",
            )


def _documents(blocks: Blocks, split: Part) -> Iterator[tuple[int, int, bytes]]:
    """(number, tokens, digest of the token ids) of each run of tokens of one document."""
    step = max(1, _STEP // blocks.context)
    current: int | None = None
    length, digest = 0, hashlib.blake2b(digest_size=16)
    for start in range(0, blocks.n_blocks(split), step):
        stop = min(start + step, blocks.n_blocks(split))
        ids = np.ascontiguousarray(blocks.tokens(split, start, stop)).reshape(-1)
        number = blocks.document(split, start, stop).reshape(-1)
        edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(number)]
        owners = number[edges[:-1]].tolist()
        for first, last, owner in zip(edges[:-1], edges[1:], owners, strict=True):
            if owner != current:
                if current is not None:
                    yield current, length, digest.digest()
                current, length, digest = owner, 0, hashlib.blake2b(digest_size=16)
            digest.update(ids.data[first:last])
            length += last - first
    if current is not None:
        yield current, length, digest.digest()
