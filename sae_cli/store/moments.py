"""Mean and variance of activations, gathered chunk by chunk, the same to the last bit every time.

Each chunk gives its own count, mean and centred sum of squares in float64; chunks are merged in
order by the update of Chan, Golub & LeVeque (1983, "Algorithms for computing the sample
variance", eq. 2.1). Sums run over a fixed tree of elementwise additions, so neither the number of
threads nor the device has a say in the last bit, and a resumed run ends with the same statistics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Moments of `count` rows of dimension d. All tensors are float64 on the CPU."""

    count: int
    mean: Tensor
    """[d], mean of each dimension."""
    centred: Tensor
    """[d], sum over rows of (x - mean)^2."""
    norms: float
    """Sum over rows of the L2 norm."""

    @classmethod
    def none(cls, d: int) -> Moments:
        """Moments of no rows."""
        return cls(0, torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64), 0.0)

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Moments of `rows` [n, d], of any floating dtype, computed where they are."""
        n, d = rows.shape
        if n == 0:
            return cls.none(d)
        x = rows.detach().to(torch.float64, copy=True)
        norms = _tree_sum((x * x).T).sqrt()
        mean = _tree_sum(x.clone()) / n
        x -= mean
        x *= x
        return cls(n, mean.cpu(), _tree_sum(x).cpu(), float(_tree_sum(norms[:, None])))

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
    def finite(self) -> bool:
        """False when a row held NaN or Inf."""
        return bool(self.centred.isfinite().all()) and math.isfinite(self.norms)

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
        )

    def to_bytes(self) -> bytes:
        """As a safetensors file: count, mean, var, centred, norms, mean_norm."""
        scale = max(self.count, 1)
        data: bytes = save(
            {
                "count": torch.tensor([self.count], dtype=torch.int64),
                "mean": self.mean.contiguous(),
                "var": self.centred / scale,
                "centred": self.centred.contiguous(),
                "norms": torch.tensor([self.norms], dtype=torch.float64),
                "mean_norm": torch.tensor([self.norms / scale], dtype=torch.float64),
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
        )


def _tree_sum(x: Tensor) -> Tensor:
    """Sum over dim 0 by halves, in place: [n, d] -> [d]. Destroys `x`."""
    n = x.shape[0]
    while n > 1:
        half = (n + 1) // 2
        x[: n - half] += x[half:n]
        n = half
    return x[0].clone()
