"""The largest pre-activations of a whole batch, exactly, without keeping them all.

BatchTopK (Bussmann et al. 2024, arXiv 2412.06410) keeps the B * k largest of B * d_sae numbers.
The encoder's product is made some rows at a time and consumed while it is in the cache: what lies
above a guess of the cut is put aside, and the exact cut is found among that. A bad guess costs
time, never exactness: too high, and the pass is made again with a lower one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_cli.sae.product import chunk_rows, linear

BLOCK = 64
"""Entries whose maximum is compared first: few blocks hold anything above the cut."""
MARGIN = 2.0
"""Without a guess, one is made to keep this many times too much."""


@dataclass(frozen=True)
class Kept:
    """What a batch keeps, sorted by row, then latent."""

    rows: Tensor
    latents: Tensor
    values: Tensor
    """[n], all positive"""
    cut: Tensor
    """0-d: the smallest kept value, or zero where fewer are positive than were asked for."""


def products(z: Tensor, enc: Tensor, b_enc: Tensor) -> Iterator[Tensor]:
    """The pre-activations `[some rows, d_sae]` of `z [B, d_in]`, from the first rows on."""
    rows = chunk_rows(enc.shape[0], z.element_size(), z.device)
    return (linear(part, enc, b_enc) for part in torch.split(z, rows))


def batch_top_k(z: Tensor, enc: Tensor, b_enc: Tensor, count: int, guess: float = 0.0) -> Kept:
    """The `count` largest positive pre-activations of the batch `z [B, d_in]`.

    Where the last place is tied, the earlier row and then the lower latent win. `guess` is
    something near the cut, from below: the last batch's, say; zero when there is none.
    """
    d_sae = enc.shape[0]
    if count == 0:
        z = z[:0]
    if z.shape[0] * d_sae <= count:
        guess = 0.0
    elif guess <= 0.0:
        guess = first_guess(z, enc, b_enc, count / (z.shape[0] * d_sae))
    places, values = above(z, enc, b_enc, guess)
    while values.numel() < count and guess > 0.0:
        guess = guess / 2 if guess > 1e-3 else 0.0
        places, values = above(z, enc, b_enc, guess)
    cut = values.new_zeros(())
    if 0 < count <= values.numel():
        cut = values.kthvalue(values.numel() - count + 1).values
        keep = values > cut
        tied = (values == cut).nonzero().flatten()
        keep[tied[: count - int(keep.sum())]] = True
        places, values = places[keep], values[keep]
    return Kept(places // d_sae, places % d_sae, values, cut)


def first_guess(z: Tensor, enc: Tensor, b_enc: Tensor, share: float) -> float:
    """A value that about `MARGIN` times the `share` of the first rows' entries exceed, zero if it
    is negative."""
    pre, share = next(products(z, enc, b_enc)), MARGIN * share
    sample = pre.flatten()[:: max(1, pre.numel() // 2**18)]
    rank = math.floor(sample.numel() * (1.0 - min(share, 1.0))) + 1
    return max(0.0, float(sample.kthvalue(min(rank, sample.numel())).values))


def above(z: Tensor, enc: Tensor, b_enc: Tensor, guess: float) -> tuple[Tensor, Tensor]:
    """Flat places and values of all pre-activations above `guess`, in order of place."""
    places, values, before = [], [], 0
    width = math.gcd(enc.shape[0], BLOCK)
    for pre in products(z, enc, b_enc) if z.shape[0] else ():
        blocks = pre.view(-1, width)
        some = (blocks.amax(1) > guess).nonzero().flatten()
        inside = blocks[some]
        block, column = (inside > guess).nonzero(as_tuple=True)
        places.append(some[block] * width + column + before)
        values.append(inside[block, column])
        before += pre.numel()
    if not places:
        return torch.empty(0, dtype=torch.int64, device=z.device), z.new_empty(0)
    return torch.cat(places), torch.cat(values)
