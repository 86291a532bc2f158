"""What an SAE is held against: dictionaries that nobody trained to be sparse, at the same L0.

All of them rebuild an activation x about the stored mean m from k of their own components. With
unit rows D `[n, d]` and s = D (x - m),

    S = the k rows with the largest |s_i|,  y = sum over S of s_i D_i
    x_hat = m + a y,  a = <x - m, y> / |y|^2

where a is the scalar that makes |x - x_hat| least; latents are f_i = a s_i, signed. It is 1 where
rows are orthogonal. The rows are

- `pca`: the principal directions of training activations, the eigenvectors of their covariance;
- `neurons`: the coordinates of the site itself, D = 1;
- `random`: as many rows as the SAE has latents, drawn evenly from the unit sphere.

Signed coefficients and a fitted scalar favour the controls. None learns to select, which is what is
controlled for. No training and no files here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SEED = 2_718_281_828
"""Of random rows: far from the seeds that people give a training, whose first rows are drawn alike;
with its seed, the control would be what the SAE began as. (Of a seed, torch's CPU generator takes
the lower 32 bits.)"""


@dataclass(frozen=True)
class Control:
    """A dictionary, and how many of its components a token has."""

    mean: Tensor
    """float32 [d]"""
    rows: Tensor | None
    """float32 [n, d], of unit norm; None: the coordinates."""
    k: int
    """At least 1; the smaller of it and n are used."""
    orthogonal: bool = True
    """Whether rows are at right angles, so that a is 1."""

    @property
    def d_out(self) -> int:
        return len(self.mean)

    @property
    def d_sae(self) -> int:
        """How many components there are."""
        return self.d_out if self.rows is None else len(self.rows)

    def encode(self, x: Tensor) -> Tensor:
        """Latents, float32 `[..., n]`, of raw activations `x [..., d]`: at most k are not zero."""
        s = x.float() - self.mean
        if self.rows is not None:
            s = s @ self.rows.T
        k = min(self.k, self.d_sae)
        at = s.abs().topk(k, dim=-1).indices
        chosen = s.gather(-1, at)
        f = torch.zeros_like(s).scatter_(-1, at, chosen)
        if self.orthogonal:
            return f
        assert self.rows is not None
        length = (f @ self.rows).square().sum(-1, keepdim=True)
        gain = chosen.square().sum(-1, keepdim=True)  # <x - m, y>
        return f * torch.where(length > 0, gain / length, 0.0)

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction `[..., d]`, raw activation units, of latents `f [..., n]`."""
        return self.mean + (f if self.rows is None else f @ self.rows)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of `x`: `[..., d]` to `[..., d]`."""
        return self.decode(self.encode(x))


def random_rows(n: int, d: int, device: torch.device) -> Tensor:
    """float32 `[n, d]`, evenly from the unit sphere; the same on every device."""
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(SEED))
    return torch.nn.functional.normalize(rows, dim=1).to(device)


class Covariance:
    """sum (x - m)(x - m)^T, float64, over activations as they come."""

    def __init__(self, mean: Tensor) -> None:
        """`mean [d]` is m."""
        self.mean, self.n = mean.double(), 0
        self._sum = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)

    def add(self, x: Tensor) -> None:
        """Count `x [n, d]`."""
        centred = x.double() - self.mean
        self._sum += centred.T @ centred
        self.n += len(x)

    def directions(self) -> Tensor:
        """Eigenvectors, float32 `[d, d]` as rows, those of the most variance first."""
        _, vectors = torch.linalg.eigh(self._sum)
        rows: Tensor = vectors.T.flip(0).float().contiguous()
        return rows
