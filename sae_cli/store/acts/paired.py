"""Two finished arrays of the same tokens, read side by side: what a transcoder trains on.

Each is seen under the mask of both and in the chunks of the first, so rows of one number are the
same token's and one order holds for both. Rows are copied once more only where the arrays' own
chunks differ in size.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_cli.errors import StoreError
from sae_cli.store.acts.array import NAME, ActivationReader


class PairedReader(ActivationReader):
    """An array of which only rows count that count in `other` as well, cut into `chunk_rows`.

    Raises StoreError when the arrays have not the same rows, or one is damaged.
    """

    _other: ActivationReader | None = None

    def __init__(self, dir: Path, other: ActivationReader, chunk_rows: int) -> None:
        super().__init__(dir)  # which asks whether this one is complete
        self._other, self._as_stored = other, chunk_rows == self.chunk_rows
        if self.planned_rows != other.planned_rows:
            raise StoreError(
                f"{dir} has {self.planned_rows:,} rows, {other.files.where(NAME)} has "
                f"{other.planned_rows:,}: they are not of the same tokens"
            )
        self.chunk_rows = chunk_rows
        self.n_chunks = -(-self.planned_rows // chunk_rows)

    @property
    def complete(self) -> bool:
        """Whether every planned row of both is committed."""
        return super().complete and (self._other is None or self._other.complete)

    @cached_property
    def kept(self) -> NDArray[np.int64]:
        """Rows of each chunk that count in both, [n_chunks]."""
        counts = [np.count_nonzero(self.reasons(k) == 0) for k in range(self.n_chunks)]
        return np.array(counts, np.int64)

    def raw(self, k: int) -> dict[str, NDArray[Any]]:
        """See `ActivationReader.raw`."""
        if self._as_stored:
            return super().raw(k)
        return {name: self.table.rows(name, *self._rows(k)) for name in self.columns}

    def reasons(self, k: int | None = None) -> NDArray[np.uint8]:
        """Why rows do not count in one of the two (0: they count in both)."""
        low, high = (0, self.planned_rows) if k is None else self._rows(k)
        assert self._other is not None
        own, others = (r.table.rows("mask", low, high) for r in (self, self._other))
        joint: NDArray[np.uint8] = np.where(own != 0, own, others)
        return joint

    def _rows(self, k: int) -> tuple[int, int]:
        return k * self.chunk_rows, min(self.planned_rows, (k + 1) * self.chunk_rows)


def paired(first: Path, second: Path) -> tuple[PairedReader, PairedReader]:
    """Readers of two arrays, each under the mask of both."""
    plain = ActivationReader(first), ActivationReader(second)
    size = plain[0].chunk_rows
    return PairedReader(first, plain[1], size), PairedReader(second, plain[0], size)
