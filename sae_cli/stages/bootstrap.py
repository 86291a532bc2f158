"""How sure a figure is: a bootstrap over the documents that it was measured on.

Tokens of a document are not independent, documents are: what is drawn again, with replacement, is
whole documents. Sums of per-token values are kept by document while the text goes by, so that a
resample is a product of counts and sums, and costs no forward. Draws depend on how many documents
there are and on nothing else, so every figure of an evaluation is resampled alike, and a ratio's
two sums together.

It refuses an interval of few documents, and one of a figure that some resample does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

RESAMPLES, SEED, LEVEL = 1000, 0, 0.95
FEWEST = 8
"""Documents, below which there is no interval."""
UNITS = 1024
"""Most units that are drawn. Where there are more documents, document i belongs to unit i mod
UNITS, and units of several whole documents are drawn: memory is bounded however long the text."""
METHOD = {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL, "unit": "document"}
"""As records say it."""


@dataclass(frozen=True)
class Interval:
    """The central LEVEL of a figure over resamples, or null and the reason why there is none."""

    low: float | None
    high: float | None
    n_docs: int
    """Documents with a token that counts."""
    reason: str | None = None

    def record(self) -> dict[str, float | int | str | None]:
        """As plain data."""
        return {"low": self.low, "high": self.high, "n_docs": self.n_docs, "reason": self.reason}


class Segments:
    """Which unit each of n tokens belongs to: made once for all that is summed over them."""

    def __init__(self, documents: Tensor) -> None:
        """`documents` int64 [n]: each token's document, numbered from 0."""
        self.documents = torch.unique(documents)
        self.units, self._unit_of = torch.unique(documents % UNITS, return_inverse=True)

    def sums(self, values: Tensor) -> Tensor:
        """float64 `[units here, s]` of `values [n, s]`; a product, so that its order is fixed."""
        here = torch.arange(len(self.units), device=values.device)[:, None]
        sums: Tensor = (self._unit_of == here).double() @ values.double()
        return sums


class UnitSums:
    """Sums by unit, float64 `[units, s]`, on the device of what was added."""

    def __init__(self, documents: int, columns: int) -> None:
        """`documents` is how many the text has."""
        self._columns, self._sums = columns, None
        self._seen = torch.zeros(documents, dtype=torch.bool)
        self._units = min(documents, UNITS)

    _sums: Tensor | None

    def add(self, values: Tensor, segments: Segments) -> None:
        """Count tokens' `values [n, s]`; n may be 0."""
        if not len(segments.units):
            return
        if self._sums is None:
            self._sums = values.new_zeros(self._units, self._columns, dtype=torch.float64)
        self._sums[segments.units] += segments.sums(values)
        self._seen[segments.documents.cpu()] = True

    def plus(self, other: UnitSums) -> UnitSums:
        """Both together, of the same text."""
        assert len(self._seen) == len(other._seen) and self._columns == other._columns
        out = UnitSums(len(self._seen), self._columns)
        out._seen = self._seen | other._seen
        parts = [each._sums for each in (self, other) if each._sums is not None]
        out._sums = sum(parts[1:], parts[0].clone()) if parts else None
        return out

    @property
    def n_docs(self) -> int:
        """Documents of which a token was counted."""
        return int(self._seen.sum())

    def resampled(self) -> Tensor | None:
        """float64 `[RESAMPLES, s]`: the sums over each resample of the units that have tokens;
        None where there are too few documents."""
        if self._sums is None or self.n_docs < FEWEST:
            return None
        units = torch.unique(self._seen.nonzero()[:, 0] % UNITS)
        return draws(len(units)).to(self._sums.device) @ self._sums[units.to(self._sums.device)]


@lru_cache(maxsize=4)
def draws(units: int) -> Tensor:
    """How often each unit is in each resample: float64 `[RESAMPLES, units]`, rows add up to
    `units`. Every unit is drawn with the same chance, `units` times, with replacement."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randint(units, (RESAMPLES, units), generator=generator)
    ones = torch.ones(1, dtype=torch.float64).expand(RESAMPLES, units)
    return torch.zeros(RESAMPLES, units, dtype=torch.float64).scatter_add_(1, drawn, ones)


def interval(values: Tensor | None, n_docs: int, reason: str | None = None) -> Interval:
    """The percentile interval of a figure's `values [RESAMPLES]` (None: too few documents).

    Quantiles (1 - LEVEL) / 2 and (1 + LEVEL) / 2, interpolated linearly (Efron and Tibshirani
    1993, An Introduction to the Bootstrap, section 13.3). `reason` says why there is no figure.
    """
    if reason is not None:
        return Interval(None, None, n_docs, reason)
    if values is None:
        return Interval(None, None, n_docs, f"{n_docs} documents, fewer than {FEWEST}")
    missing = int((~values.isfinite()).sum())
    if missing:
        return Interval(None, None, n_docs, f"{missing} of {RESAMPLES} resamples have no value")
    ends = values.new_tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = values.quantile(ends).tolist()
    return Interval(low, high, n_docs)
