"""Products over active latents whose number differs from row to row.

The sibling of `sparse.Active` for batches that are cut as a whole. Entries are sorted by row and,
for sums over the batch, by latent with a stable sort, so a step has one result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_cli.sae.sparse import Products, ends_of


class Ragged(Products):
    """Active entries of a batch: `rows`, `latents`, `values [n]`, sorted by row, then latent.

    What stands behind them with row `n_rows`, latent `d_sae` and value 0 is padding.
    """

    def __init__(
        self, rows: Tensor, latents: Tensor, values: Tensor, n_rows: int, d_sae: int
    ) -> None:
        assert rows.shape == latents.shape == values.shape and rows.dim() == 1
        self.rows, self.latents, self.values = rows, latents, values
        self.n_rows, self.d_sae = n_rows, d_sae
        self._row_ends = ends_of(rows, n_rows)
        self._order = latents.argsort(stable=True)
        self._sorted = latents[self._order]
        self._latent_ends = ends_of(self._sorted, d_sae)
        self._sources = rows[self._order]

    @classmethod
    def of(cls, values: Tensor, indices: Tensor, d_sae: int) -> Ragged:
        """The entries of `values`, `indices [B, k]` that are above zero."""
        on = values > 0
        return cls(on.nonzero()[:, 0], indices[on], values[on], values.shape[0], d_sae)

    def within(self, low: int, high: int) -> Ragged:
        """The entries of latents low to high - 1, counted from `low`."""
        here = (self.latents >= low) & (self.latents < high)
        return type(self)(
            self.rows[here], self.latents[here] - low, self.values[here], self.n_rows, high - low
        )

    def number(self) -> Tensor:
        """How many entries there are: 0-d, int64."""
        return self._row_ends[-1]

    def decode(self, W_dec: Tensor) -> Tensor:
        """f W_dec: `[B, d_in]` for `W_dec [d_sae, d_in]`."""
        return self._bags(self.values, self.latents, self._row_ends, W_dec)

    def value_grads(self, grad: Tensor, W_dec: Tensor) -> Tensor:
        """d(loss)/d(values) `[n]` from d(loss)/d(x_hat) `grad [B, d_in]`."""
        products = torch.empty_like(self.values)
        ordered = (self._sorted, self._sources, self._latent_ends)
        products[self._order] = self._dots(W_dec, grad, *ordered)
        return products

    def latent_sums(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Sum over the batch of weights[t, i] * rows[t] for each latent i: `[d_sae, n]`."""
        return self._bags(weights[self._order], self._sources, self._latent_ends, rows)

    def fired(self) -> Tensor:
        """Which latents fired on any row: bool `[d_sae]`."""
        hits = torch.zeros(self.d_sae + 1, dtype=torch.bool, device=self.latents.device)
        return hits.index_fill_(0, self.latents, True)[: self.d_sae]
