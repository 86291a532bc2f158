"""Mean, variance and norms of activations, gathered while they are written, in any number of parts.

Each part is measured on its own (`sums`). Parts are merged in order by the update of Chan, Golub &
LeVeque (1983, "Algorithms for computing the sample variance", eq. 2.1); counts and the histogram
of norms (`norms`) add up exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from sae_cli.store.acts.norms import BINS, QUANTILES, histogram, quantile
from sae_cli.store.acts.sums import gather, one_thread, typical


@dataclass(frozen=True)
class Moments:
    """Moments of `count` rows of dimension d. All tensors are on the CPU.

    The mean is good to 1e-7 of a dimension's spread, the variance to 1e-6 of itself.
    """

    count: int
    mean: Tensor
    """float64 [d], mean of each dimension."""
    centred: Tensor
    """float64 [d], sum over rows of (x - mean)^2."""
    norms: float
    """Sum over rows of the L2 norm."""
    histogram: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.int64))
    """int64 [BINS], how many rows have a norm in each bin of `norms`."""
    error: float = 0.0
    """Sum over rows and dimensions of (stored - x)^2: what the encoding did to them."""

    @classmethod
    def none(cls, d: int) -> Moments:
        """Moments of no rows."""
        return cls(0, torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64), 0.0)

    @classmethod
    def of(
        cls,
        rows: Tensor,
        keep: NDArray[np.bool_] | None = None,
        norms: Tensor | None = None,
        error: float = 0.0,
    ) -> Moments:
        """Moments of `rows` [n, d], of any floating dtype on any device, where `keep` [n] is true.

        Other rows may hold anything, also NaN. `norms` [n] spares computing `norms_of(rows)`.
        """
        tally = Tally(rows.shape[1])
        tally.add(rows, keep, norms)
        return tally.moments(error)

    @property
    def var(self) -> Tensor:
        """[d], variance of each dimension (divided by the count)."""
        return self.centred / self.count

    @property
    def mean_norm(self) -> float:
        """Mean L2 norm of a row."""
        return self.norms / self.count

    @property
    def total_centred(self) -> float:
        """Sum over rows and dimensions of (x - mean)^2: the denominator of FVU."""
        return math.fsum(self.centred.tolist())

    @property
    def loss(self) -> float:
        """FVU of what is stored against what was captured: `error` / `total_centred`.

        0 where nothing was lost; inf where there was no variance to lose.
        """
        if self.error == 0:
            return 0.0
        total = self.total_centred
        return self.error / total if total else math.inf

    @property
    def finite(self) -> bool:
        """False when a row held NaN or Inf."""
        return bool(self.centred.isfinite().all()) and math.isfinite(self.norms)

    def quantile(self, q: float) -> float:
        """The norm that a share `q` (0 to 1) of rows does not exceed, to within 1.1 %.

        NaN of no rows; see `norms.quantile`.
        """
        return quantile(self.histogram.numpy(), q)

    def merged(self, other: Moments) -> Moments:
        """Moments of these rows followed by `other`'s."""
        if other.count == 0 or self.count == 0:
            return self if other.count == 0 else other
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.centred + other.centred + delta * delta * (self.count * other.count / count),
            self.norms + other.norms,
            self.histogram + other.histogram,
            self.error + other.error,
        )

    def to_row(self) -> NDArray[np.float64]:
        """As one row of numbers, `row_layout(d)`."""
        d = len(self.mean)
        row = np.empty(row_length(d))
        parts = {name: row[part] for name, part in row_layout(d).items()}
        parts["count"][0], parts["norms"][0], parts["error"][0] = self.count, self.norms, self.error
        parts["norm_histogram"][:] = self.histogram.numpy()
        parts["mean"][:], parts["centred"][:] = self.mean.numpy(), self.centred.numpy()
        return row

    @classmethod
    def from_row(cls, row: NDArray[np.float64], d: int) -> Moments:
        """What `to_row` made, bit for bit."""
        parts = {name: np.array(row[part]) for name, part in row_layout(d).items()}
        return cls(
            int(parts["count"][0]),
            torch.from_numpy(parts["mean"]),
            torch.from_numpy(parts["centred"]),
            float(parts["norms"][0]),
            torch.from_numpy(parts["norm_histogram"].astype(np.int64)),
            float(parts["error"][0]),
        )

    def to_bytes(self) -> bytes:
        """As a safetensors file: count, mean, var, centred, norms, mean_norm, norm_histogram,
        norm_quantiles (at `norms.QUANTILES`), error."""
        scale = max(self.count, 1)
        data: bytes = save(
            {
                "count": torch.tensor([self.count], dtype=torch.int64),
                "mean": self.mean.contiguous(),
                "var": self.centred / scale,
                "centred": self.centred.contiguous(),
                "norms": _number(self.norms),
                "mean_norm": _number(self.norms / scale),
                "norm_histogram": self.histogram.contiguous(),
                "norm_quantiles": _number(*map(self.quantile, QUANTILES)),
                "error": _number(self.error),
            }
        )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Moments:
        """What `to_bytes` made, bit for bit."""
        tensors = load(data)
        return cls(
            int(tensors["count"].item()),
            tensors["mean"],
            tensors["centred"],
            float(tensors["norms"].item()),
            tensors["norm_histogram"],
            float(tensors["error"].item()),
        )


class Tally:
    """Moments on their way: rows are added in pieces that belong together, such as a shard's.

    What comes out hangs on the rows and, in the last bits, on where the pieces end.
    """

    def __init__(self, d: int) -> None:
        self._count = 0
        self._pivot: Tensor | None = None
        """float32 or float64 [d], a row near the bulk of the first that counted."""
        self._sums = torch.zeros(2, d, dtype=torch.float64)
        self._norms: list[NDArray[np.float64]] = []

    def add(
        self, rows: Tensor, keep: NDArray[np.bool_] | None = None, norms: Tensor | None = None
    ) -> bool:
        """Take `rows` [n, d]; see `Moments.of`. Returns whether those that count are finite."""
        rows = rows.detach()
        kept = np.arange(len(rows)) if keep is None else np.flatnonzero(keep)
        if len(kept) == 0:
            return True
        absent = np.empty(0, np.int64) if keep is None else np.flatnonzero(~keep)
        if self._pivot is None:
            best = torch.float64 if rows.dtype == torch.float64 else torch.float32
            self._pivot = typical(rows, kept).to(best)
        with one_thread():
            sums, lengths = self._gather(rows, absent, self._pivot, norms)
            if not (sums.isfinite().all() and np.isfinite(lengths).all()):
                # the square of a float32 need not fit into one
                sums, lengths = self._gather(rows, absent, self._pivot.double(), None)
        self._norms.append(lengths)
        self._sums += sums
        self._count += len(kept)
        return bool(sums.isfinite().all()) and bool(np.isfinite(lengths).all())

    @staticmethod
    def _gather(
        rows: Tensor, absent: NDArray[np.int64], pivot: Tensor, norms: Tensor | None
    ) -> tuple[Tensor, NDArray[np.float64]]:
        """The sums, and the norms of the rows that count."""
        sums, found = gather(rows, absent, pivot, norms)
        lengths = found.double().cpu().numpy()
        return sums, np.delete(lengths, absent) if len(absent) else lengths

    def moments(self, error: float = 0.0) -> Moments:
        """Those of all rows so far; `error` as `Moments.error`."""
        if self._pivot is None:
            return Moments.none(self._sums.shape[1])
        total, squares = self._sums
        lengths = np.concatenate(self._norms)
        return Moments(
            self._count,
            self._pivot.double().cpu() + total / self._count,
            (squares - total * total / self._count).clamp_(min=0),
            float(np.sum(lengths)),
            torch.from_numpy(histogram(lengths)),
            error,
        )


def row_layout(d: int) -> dict[str, slice]:
    """Where `Moments.to_row` puts what: count, norms, error, norm_histogram, mean, centred."""
    sizes = {"count": 1, "norms": 1, "error": 1, "norm_histogram": BINS, "mean": d, "centred": d}
    layout, at = {}, 0
    for name, size in sizes.items():
        layout[name] = slice(at, at + size)
        at += size
    return layout


def row_length(d: int) -> int:
    """Numbers in a row of `Moments.to_row`."""
    return 3 + BINS + 2 * d


def _number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
