"""The text of a site: only the windows and words that some feature shows, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_cli.report.browser.pack import script
from sae_cli.store.dashboards import NONE, Corpus

AT_ONCE = 4096
"""Windows of a file."""
Words = Callable[[Sequence[int]], list[str]]
"""What token ids say, one by one."""


class Shown:
    """Numbers in use, in the order in which they came: each has a place, 0, 1, 2, ..."""

    def __init__(self, size: int) -> None:
        self._place = np.full(size, NONE, np.int64)
        self.numbers = np.zeros(0, np.int64)

    def places(self, numbers: NDArray[Any]) -> NDArray[np.int64]:
        """Of each of `numbers`; of NONE, NONE."""
        asked = np.unique(numbers)
        new = asked[(asked != NONE) & (self._place[asked] == NONE)]
        self._place[new] = np.arange(len(self.numbers), len(self.numbers) + len(new))
        self.numbers = np.concatenate([self.numbers, new])
        return np.where(numbers == NONE, NONE, self._place[numbers])


class SiteText:
    """A corpus, as far as it is shown."""

    def __init__(self, folder: str, corpus: Corpus, words: Words, vocabulary: int) -> None:
        self.folder, self.corpus, self._words = folder, corpus, words
        self.word_type = np.uint16 if vocabulary <= 2**16 else np.uint32
        self._windows, self._vocabulary = Shown(corpus.n_windows), Shown(vocabulary)

    def windows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where windows stand in the site."""
        return self._windows.places(numbers)

    def words(self, ids: NDArray[Any]) -> NDArray[Any]:
        """Where the words of tokens stand in the site."""
        return self._vocabulary.places(ids).astype(self.word_type)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Names and contents. Nothing more may be asked for then."""
        size = self.corpus.window
        for first in range(0, len(self._windows.numbers), AT_ONCE):
            numbers = self._windows.numbers[first : first + AT_ONCE]
            block, start = np.divmod(numbers, self.corpus.per_block)
            columns = start[:, None] * size + np.arange(size)
            inside = columns < self.corpus.tokens.shape[1]
            ids = self.corpus.tokens[block[:, None], np.where(inside, columns, 0)]
            arrays = {
                "tokens": np.where(inside, self.words(ids), 0).astype(self.word_type),
                "length": inside.sum(1).astype(np.uint16),
            }
            name = f"{self.folder}/corpus-{first // AT_ONCE:03}"
            yield f"{name}.js", script(name, None, arrays)
        used = self._vocabulary.numbers
        name = f"{self.folder}/words"
        yield f"{name}.js", script(name, self._words(used.tolist()), {})
