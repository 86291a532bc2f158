"""One source, tokenized a few documents ahead, each with its part.

Looking ahead changes nothing that comes out: a document's tokens and part depend on it alone. What
is not wanted any more is not tokenized. It does not mix, count or pack; `pack` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from sae_cli.errors import DataError
from sae_cli.lm.encode import NOTHING, Encoder, Part, Tokens, heldout_share, part_of
from sae_cli.lm.sources import RawDocument, documents, source_name
from sae_cli.spec.stages import DataSpec

_AHEAD = 32


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document of a source, ready to be packed; `tokens` are empty where none are wanted."""

    index: int
    round: int
    part: Part
    tokens: Tokens


class Feed:
    """The documents of `data.sources[number]` from `start` on."""

    def __init__(
        self,
        data: DataSpec,
        number: int,
        encoder: Encoder,
        wanted: Callable[[Part, int], bool],
        start: int,
    ) -> None:
        """`wanted(part, round)` says if such documents can still be used; once false, for good."""
        source = data.sources[number]
        self.name = source_name(source)
        self._next = start
        self._documents = documents(source, seed=data.seed, start=start)
        self._encoder = encoder
        self._wanted = wanted
        self._seed = data.seed
        self._share = heldout_share(data)
        self._ahead: deque[Encoded] = deque()

    def recall(self, until: int, indices: Collection[int]) -> Iterator[tuple[int, Tokens]]:
        """Read on to document `until` (not included): (index, tokens) of those in `indices`."""
        assert not self._ahead
        for document in islice(self._documents, max(until - self._next, 0)):
            self._next += 1
            if document.index in indices:
                yield document.index, self._encoder.encode([document])[0]
        if self._next < until:
            raise self.changed()

    def take(self) -> Encoded | None:
        """The next document; None when the source has run dry. Raises DataError, ModelError."""
        if not self._ahead:
            group = list(islice(self._documents, _AHEAD))
            self._ahead.extend(self._encoded(group))
        return self._ahead.popleft() if self._ahead else None

    def changed(self) -> DataError:
        """The error for a source that is not what it was when the run began."""
        return DataError(
            f"source {self.name} has changed since this run began",
            hint="restore it, or start the cache of this data anew.",
        )

    def _encoded(self, group: list[RawDocument]) -> Iterator[Encoded]:
        parts = [part_of(document, self._seed, self._share) for document in group]
        use = [self._wanted(p, d.round) for p, d in zip(parts, group, strict=True)]
        made = iter(self._encoder.encode([d for d, u in zip(group, use, strict=True) if u]))
        for document, part, used in zip(group, parts, use, strict=True):
            found = next(made) if used else NOTHING
            yield Encoded(document.index, document.round, part, found)
