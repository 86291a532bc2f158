"""What the products over active entries take and give, whoever makes them.

Plain torch: sorting a batch's entries by latent is one stable sort of integers, which torch does
well on every device. Nothing here waits for the device: lengths are known before, and what is
beyond the end is padding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

PART = 128
"""Tokens that one program walks through."""


class Kept(NamedTuple):
    """What is left of a batch, sorted by row, then latent, and padded to a length known before."""

    values: Tensor
    """`[B * k]`, positive; 0 in the padding."""
    latents: Tensor
    """int64 `[B * k]`; d_sae in the padding."""
    rows: Tensor
    """int64 `[B * k]`; B in the padding."""
    row_ends: Tensor
    """int64 `[B + 1]`: row b has entries row_ends[b] to row_ends[b + 1] - 1."""


class Lists(NamedTuple):
    """The entries of a batch, sorted by latent, then by where they stand."""

    order: Tensor
    """int64 `[n]`: which entry is the i-th."""
    sources: Tensor
    """int64 `[n]`: the token, row b of the batch, that it is of."""
    ends: Tensor
    """int64 `[d_sae + 1]`: latent i has the entries ends[i] to ends[i + 1] - 1 of the two above."""
    parts: Tensor
    """int64 `[d_sae + 1]`: its parts, if it is cut into any, are parts[i] to parts[i + 1] - 1."""
    owners: Tensor
    """int64 `[2 n / PART]`, as many as there can be: the latent of a part, d_sae for none."""


class Gradients(NamedTuple):
    """d(loss) by each of these, float32."""

    values: Tensor
    """The shape of the values; 0 where a value is 0."""
    dec: Tensor
    """`[d_sae, d]`"""
    enc: Tensor
    """`[d_sae, d]`"""
    b_enc: Tensor
    """`[d_sae]`"""
    squares: Tensor
    """`[d_sae]`: of a latent's gradients (dec, enc and b_enc) the sum of squares, for clipping."""


def by_latent(latents: Tensor, d_sae: int, sources: Tensor | None = None) -> Lists:
    """Sort entries by latent, stably.

    `latents` is `[B, k]` (int64), or `[n]` with the token of each entry in `sources [n]`. Latents
    at or above d_sae are padding, and in no list.
    """
    flat = latents.flatten()
    ordered, order = flat.sort(stable=True)
    ends = torch.searchsorted(ordered, torch.arange(d_sae + 1, device=flat.device))
    whose = order // latents.shape[1] if sources is None else sources[order]
    return in_parts(order, whose, ends)


def in_parts(order: Tensor, sources: Tensor, ends: Tensor) -> Lists:
    """The lists of entries that are sorted by latent already, with their long ones cut."""
    counts = ends.diff()
    pieces = torch.where(counts > PART, (counts + PART - 1) // PART, 0)
    parts = functional.pad(pieces.cumsum(0), (1, 0))
    places = torch.arange(2 * order.numel() // PART, device=order.device)
    owners = torch.searchsorted(parts, places, right=True) - 1
    return Lists(order, sources, ends, parts, owners)
