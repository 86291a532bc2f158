"""Products over active latents only.

A TopK batch has k active latents per row, so decoding it and every gradient that goes through it
costs B * k * d instead of B * d_sae * d. Two primitives carry all of them, both made of torch's
embedding bags: weighted sums of rows (a token's latents, or a latent's tokens), and dot products of
pairs of rows. No [B * k, d] tensor is made. A latent's tokens are found by a stable sort, so sums
have one order and a step has one result, whatever the number of threads.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor
from torch.nn import functional


def bags(weights: Tensor, members: Tensor, ends: Tensor, table: Tensor) -> Tensor:
    """Weighted sums of the rows of `table [m, d]`: `[n, d]`.

    Sum i runs over the members ends[i] to ends[i + 1] - 1 (`ends [n + 1]`, from 0), each with
    its weight; `weights` and `members` have one entry a member.
    """
    return functional.embedding_bag(
        members, table, ends, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def dots(left: Tensor, right: Tensor, lefts: Tensor, rights: Tensor, ends: Tensor) -> Tensor:
    """left[lefts[i]] . right[rights[i]] for each i: `[n]`, from `left [a, d]`, `right [b, d]`.

    `lefts` ascends, and `ends [a + 1]` says where each left row's pairs end, so that it is read
    from memory once.
    """
    products: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, right, rights, ends[:-1], lefts, 0
    )
    return products


def ends_of(places: Tensor, size: int) -> Tensor:
    """Where each of `size` places ends among sorted `places [n]`, with a leading zero."""
    return torch.searchsorted(places, torch.arange(size + 1, device=places.device))


class Products(abc.ABC):
    """What is made of the active entries of a batch, however they are stored."""

    values: Tensor
    _order: Tensor
    _sources: Tensor
    _latent_ends: Tensor
    _bags, _dots = staticmethod(bags), staticmethod(dots)

    @abc.abstractmethod
    def value_grads(self, grad: Tensor, W_dec: Tensor) -> Tensor:
        """d(loss)/d(values) from d(loss)/d(x_hat)."""

    @abc.abstractmethod
    def latent_sums(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Sums over the batch, for each latent."""

    def gradients(self, grad: Tensor, z: Tensor, W_dec: Tensor) -> dict[str, Tensor]:
        """d(loss) by `enc`, `dec` and `b_enc`, where values are relu(z enc^T + b_enc), from
        d(loss)/d(x_hat) `grad [B, d_out]`, the inputs `z [B, d_in]` and `W_dec [d_sae, d_out]`."""
        value_grads = self.value_grads(grad, W_dec)
        ones = grad.new_ones(grad.shape[0], 1)
        return {
            "enc": self.latent_sums(value_grads, z),
            "dec": self.latent_sums(self.values, grad),
            "b_enc": self.latent_sums(value_grads, ones).flatten(),
        }


class Active(Products):
    """Which latents are active in a batch, and how much: `values`, `indices [B, k]`.

    A row holds a latent at most once; entries with value zero count as stored, not as firing.
    """

    def __init__(self, values: Tensor, indices: Tensor, d_sae: int) -> None:
        assert values.shape == indices.shape and values.dim() == 2
        self.values, self.d_sae = values, d_sae
        rows, k = values.shape
        self._row_ends = torch.arange(0, rows * k + 1, k, device=indices.device)
        self._columns = indices.flatten()
        self._order = self._columns.argsort(stable=True)
        self._latents = self._columns[self._order]
        self._latent_ends = ends_of(self._latents, d_sae)
        self._sources = self._order // k

    def decode(self, W_dec: Tensor) -> Tensor:
        """f W_dec: `[B, d_in]` for `W_dec [d_sae, d_in]`."""
        return self._bags(self.values.flatten(), self._columns, self._row_ends, W_dec)

    def value_grads(self, grad: Tensor, W_dec: Tensor) -> Tensor:
        """d(loss)/d(values) `[B, k]`, 0 where inactive, from d(loss)/d(x_hat) `grad [B, d_in]`."""
        products = torch.empty_like(self.values).flatten()
        ordered = (self._latents, self._sources, self._latent_ends)
        products[self._order] = self._dots(W_dec, grad, *ordered)
        return products.view_as(self.values).mul_(self.values > 0)

    def latent_sums(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Sum over the batch of weights[t, i] * rows[t] for each latent i: `[d_sae, n]`.

        `weights [B, k]` belongs to the stored entries, `rows` is `[B, n]`. With the values and
        d(loss)/d(x_hat) this is the decoder's gradient; with `value_grads` and the inputs, the
        encoder's.
        """
        return self._bags(weights.flatten()[self._order], self._sources, self._latent_ends, rows)

    def fired(self) -> Tensor:
        """Which latents fired on any row: bool `[d_sae]`."""
        firing = torch.where(self.values.flatten() > 0, self._columns, self.d_sae)
        hits = torch.zeros(self.d_sae + 1, dtype=torch.bool, device=firing.device)
        return hits.index_fill_(0, firing, True)[: self.d_sae]
