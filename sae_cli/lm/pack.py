"""Documents of several sources, mixed and cut into full token blocks, resumable at every group.

The blocks are a pure function of (data spec, tokenizer): the next document comes from the source
with the fewest tokens per weight, goes to the part that its content decides, and stands behind
the one before it; blocks run on across documents, so that no padding exists. A state holds a few
integers per document under way, and resuming from it gives exactly the blocks that would have
come. No document is used twice unless its source says `repeat`, and a held-out one not even then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sae_cli.errors import DataError
from sae_cli.lm import masks
from sae_cli.lm.buffer import Buffer, Cut, Piece
from sae_cli.lm.encode import PARTS, Encoder, Part, Tokens, special_ids
from sae_cli.lm.feed import Encoded, Feed
from sae_cli.spec.base import Frozen
from sae_cli.spec.stages import DataSpec

_ZERO: dict[Part, int] = dict.fromkeys(PARTS, 0)


class SourceState(Frozen):
    """What one source has given."""

    next: int = 0
    """Index of its next document."""
    documents: dict[Part, int] = _ZERO
    """Documents used, of each part."""
    tokens: dict[Part, int] = _ZERO
    """Tokens used, of each part."""
    counted: dict[Part, int] = _ZERO
    """Tokens given out in blocks that no reason of packing speaks against, of each part."""


class PackState(Frozen):
    """Where packing stands: plain data (`model_dump(mode="json")`, `model_validate`)."""

    drawn: int = 0
    """Documents drawn from all sources, used or not; the number of the next one."""
    sources: tuple[SourceState, ...]
    """In the order of the spec."""
    blocks: dict[Part, int]
    """Blocks given out, of each part."""
    reasons: dict[Part, dict[str, int]]
    """Tokens given out that have a reason, of each part and reason (`masks.PACKED`)."""
    waiting: dict[Part, tuple[Piece, ...]]
    """Tokens accepted but not yet given out."""


@dataclass(frozen=True, eq=False)
class Group:
    """`n` consecutive blocks of one part, and the state behind them."""

    part: Part
    first: int
    """Number of the first block within its part."""
    tokens: NDArray[np.int32]
    """Token ids [n, C]."""
    document: NDArray[np.int64]
    """Number of the document of each token [n, C]; unique over sources and repetitions."""
    position: NDArray[np.int32]
    """Place within its document of each token [n, C]."""
    reasons: NDArray[np.uint8]
    """Why a token may not count [n, C], see `masks`: SPECIAL, FIRST, ROLE."""
    state: PackState


class Packer:
    """Token blocks of a `DataSpec` for one tokenizer."""

    def __init__(self, data: DataSpec, tokenizer: PreTrainedTokenizerBase, *, group: int) -> None:
        """`group` is the number of blocks given out at a time (a part's last group may be smaller).

        It moves where one group ends and the next begins, never a block. Raises ModelError if
        the tokenizer lacks what the spec asks for, as `Encoder` does.
        """
        assert group > 0
        self.data = data
        self.wanted: dict[Part, int] = {
            "train": -(-data.tokens // data.context),
            "heldout": -(-data.heldout_tokens // data.context),
        }
        """Blocks of each part: tokens / context, rounded up."""
        self._group = group
        self._encoder = Encoder(tokenizer, chat_template=data.chat_template, train_on=data.train_on)
        self._special = special_ids(tokenizer)

    def blocks(self, state: PackState | None = None) -> Iterator[Group]:
        """Every group behind `state`, or all of them; both parts come as they fill.

        Raises DataError: a source can't be read, has changed since `state`, or runs dry before
        both parts are full; and what `Encoder.encode` raises.
        """
        run = _Run(self.data, self._encoder, self.wanted, state or self._start())
        while True:
            for part in PARTS:
                first = run.buffers[part].given
                while cut := run.buffers[part].cut(self._group):
                    reasons = self._reasons(cut)
                    run.count(part, cut.source, reasons)
                    yield Group(
                        part, first, cut.tokens, cut.document, cut.position, reasons, run.state()
                    )
                    first = run.buffers[part].given
            if not any(buffer.room for buffer in run.buffers.values()):
                return
            run.draw()

    def _start(self) -> PackState:
        return PackState(
            sources=tuple(SourceState() for _ in self.data.sources),
            blocks=_ZERO,
            reasons={part: dict.fromkeys(masks.PACKED, 0) for part in PARTS},
            waiting=dict.fromkeys(PARTS, ()),
        )

    def _reasons(self, cut: Cut) -> NDArray[np.uint8]:
        reasons = np.isin(cut.tokens, self._special).astype(np.uint8) * np.uint8(masks.SPECIAL)
        reasons |= cut.reasons
        reasons[:, : self.data.mask.first_positions] |= np.uint8(masks.FIRST)
        return reasons


class _Run:
    """One pass of packing from a state on."""

    def __init__(
        self, data: DataSpec, encoder: Encoder, wanted: dict[Part, int], state: PackState
    ) -> None:
        assert len(state.sources) == len(data.sources), "a state of another spec"
        self._data = data
        self._drawn = state.drawn
        self._sources = list(state.sources)
        self._reasons = {part: dict(state.reasons[part]) for part in PARTS}
        self._last_round: list[int | None] = [None] * len(self._sources)
        self.buffers = {p: Buffer(wanted[p], state.blocks[p], data.context) for p in PARTS}
        waiting = [(part, piece) for part in PARTS for piece in state.waiting[part]]
        found: dict[tuple[int, int], Tokens] = {}
        self._feeds: list[Feed] = []
        for number, source in enumerate(self._sources):
            indices = {piece.item for _, piece in waiting if piece.source == number}
            feed = Feed(data, number, encoder, self._wants, min(indices, default=source.next))
            found |= {(number, i): made for i, made in feed.recall(source.next, indices)}
            self._feeds.append(feed)
        for part, piece in waiting:
            made = found[piece.source, piece.item]
            if len(made.ids) < piece.position + piece.length:
                raise self._feeds[piece.source].changed()
            self.buffers[part].add(piece, made)

    def state(self) -> PackState:
        return PackState(
            drawn=self._drawn,
            sources=tuple(self._sources),
            blocks={part: self.buffers[part].given for part in PARTS},
            reasons={part: dict(self._reasons[part]) for part in PARTS},
            waiting={part: self.buffers[part].waiting for part in PARTS},
        )

    def count(self, part: Part, source: NDArray[np.int32], reasons: NDArray[np.uint8]) -> None:
        """Note what is given out: of each token its source and its reasons, both [n, C]."""
        for name, bit in masks.PACKED.items():
            self._reasons[part][name] += int(np.count_nonzero(reasons & np.uint8(bit)))
        counted = np.bincount(source[reasons == 0], minlength=len(self._sources))
        for number, more in enumerate(counted.tolist()):
            before = self._sources[number]
            self._sources[number] = before.model_copy(
                update={"counted": _more(before.counted, part, more)}
            )

    def draw(self) -> None:
        """Accept or pass over one document, of the source that is furthest behind."""
        pairs = zip(self._sources, self._data.sources, strict=True)
        given = [sum(state.tokens.values()) / source.weight for state, source in pairs]
        number = given.index(min(given))
        document = self._feeds[number].take()
        if document is None or self._is_spent(number, document):
            raise self._dry(number)
        before, part = self._sources[number], document.part
        now: dict[str, Any] = {"next": document.index + 1}
        buffer = self.buffers[part]
        length = min(len(document.tokens.ids), buffer.room)
        if length and self._wants(part, document.round):
            buffer.add(Piece(number, document.index, self._drawn, 0, length), document.tokens)
            now["documents"] = _more(before.documents, part, 1)
            now["tokens"] = _more(before.tokens, part, length)
            self._last_round[number] = document.round
        self._sources[number] = before.model_copy(update=now)
        self._drawn += 1

    def _wants(self, part: Part, round_: int) -> bool:
        return self.buffers[part].room > 0 and (part == "train" or round_ == 0)

    def _is_spent(self, number: int, document: Encoded) -> bool:
        """Reading on gives nothing: a whole round did not, or only held-out tokens are missing."""
        last = self._last_round[number]
        if last is None:
            self._last_round[number] = last = document.round
        only_heldout = self.buffers["train"].room == 0
        return document.round > last + 1 or (only_heldout and document.round > 0)

    def _dry(self, number: int) -> DataError:
        told = []
        for part, field in zip(PARTS, ("data.tokens", "data.heldout_tokens"), strict=True):
            need = self.buffers[part].wanted * self._data.context
            told.append(f"{need - self.buffers[part].room:,} of {need:,} {part} tokens ({field})")
        used = sum(self._sources[number].tokens.values())
        repeats = self._data.sources[number].repeat
        return DataError(
            f"source {self._feeds[number].name} ran dry after {used:,} "
            f"tokens: {' and '.join(told)} are filled",
            hint="lower the amount that is not filled, or give that source more documents"
            + ("; held-out documents are never repeated." if repeats else ", or `repeat: true`."),
        )


def _more(counts: dict[Part, int], part: Part, n: int) -> dict[Part, int]:
    return {**counts, part: counts[part] + n}
