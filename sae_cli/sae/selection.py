"""The k largest pre-activations of every row, with a rule for ties, and no [B, d_sae] tensor.

`torch.topk` does not say which of two equal values it keeps, and a resumed run must keep the same
one. Here the rule is fixed: of equal values at the cut the lower latent index wins. A value that
is not negative and its index make one integer whose order is just that, so the cut needs no second
look and nothing is read back from the device. The work is done in two stages: of each block of
latents only the largest is compared first, and only k blocks are looked into.

`encode_top_k` makes the encoder's product some rows at a time and selects while it is in the cache.
In bfloat16 the product only nominates: k candidates and a margin, whose values are then computed in
float32, where the exact selection is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_cli.sae.product import chunk_rows, has_fast_bfloat16, linear
from sae_cli.sae.sparse import dots, ends_of

LEAST_BLOCK = 4
"""Fewer latents than this in a block, and all of a row are compared at once."""
LOW = 2**32 - 1
Select = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Nominate = Callable[[Tensor, int], Tensor]
Pairs = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Chosen:
    """What a batch keeps: k latents a row, each at most once."""

    values: Tensor
    """[B, k], at or above zero; zero is inactive."""
    indices: Tensor
    """[B, k], int64"""
    at_edge: Tensor | None = None
    """0-d: share of rows that kept their last candidate, about as often as one further was missed.
    None where all latents were compared in float32."""


def encode_top_k(
    z: Tensor,
    enc: Tensor,
    b_enc: Tensor,
    k: int,
    *,
    bfloat16: bool = False,
    margin: int = 8,
    select: Select | None = None,
    nominate: Nominate | None = None,
    pairs: Pairs = dots,
) -> Chosen:
    """The k largest of relu(z enc^T + b_enc) in each row of `z [B, d_in]`, `enc [d_sae, d_in]`.

    With `bfloat16` (and a device that is fast at it) the product that nominates k + `margin`
    candidates is made in bfloat16; kept values are float32 products either way. `select`,
    `nominate` and `pairs` take the place of `top_k`, of the choice of candidates (best first) and
    of `sparse.dots`.
    """
    d_sae = enc.shape[0]
    count = k + margin
    if bfloat16 and z.dtype == torch.float32 and 2 * count < d_sae and has_fast_bfloat16(z.device):
        return _nominated(z, enc, b_enc, k, count, nominate or _candidates, pairs)
    select = select or top_k
    parts = [
        select(linear(rows, enc, b_enc), k)
        for rows in torch.split(z, chunk_rows(d_sae, z.element_size(), z.device))
    ]
    values, indices = (torch.cat(part) for part in zip(*parts, strict=True))
    return Chosen(values, indices)


def top_k(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and latent indices of the k largest entries of each row of `pre [B, d_sae]`.

    Returns `values [B, k]`, clamped at zero (TopK keeps positive pre-activations only), and
    `indices [B, k]` (int64), each row holding a latent at most once. Ties at the k-th place go to
    the lower index. k at or above d_sae keeps every positive entry.
    """
    assert pre.dim() == 2 and k >= 1
    rows, width = pre.shape
    if k >= width:
        indices = torch.arange(width, device=pre.device).expand(rows, width)
        return pre.clamp_min(0.0), indices.contiguous()
    if pre.dtype == torch.float64:  # does not fit into half a key
        ordered = pre.clamp_min(0.0).sort(dim=1, descending=True, stable=True)
        return ordered.values[:, :k].contiguous(), ordered.indices[:, :k].contiguous()
    exact = pre.float()
    block = _block(width, k)
    latents = torch.arange(width, device=pre.device)
    if block >= LEAST_BLOCK:
        number = width // block
        _, best = _cut(exact.view(rows, number, block).amax(2), latents[:number], k)
        of_row = best + torch.arange(0, rows * number, number, device=pre.device)[:, None]
        exact = exact.view(-1, block).index_select(0, of_row.flatten()).view(rows, k * block)
        latents = (best[:, :, None] * block + latents[:block]).flatten(1)
    values, indices = _cut(exact, latents, k)
    return values.to(pre.dtype), indices


def _block(width: int, k: int) -> int:
    """Latents in a block: a power of two near 1.2 sqrt(width / k) that divides the width.

    With b in a block, width / b are compared and then k b, least at the root; on two CPUs the
    fastest was a little above, between widths 512 and 16,384 and k 4 to 32.
    """
    return math.gcd(width, 2 ** round(math.log2(1.2 * math.sqrt(width / k))))


def _cut(values: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest `values [B, n]` (float32) of each row, at or above zero, and their labels.

    The bits of such a float grow with it, so (bits, label counted down) orders by value and then by
    label, lowest first. NaN stands above everything, so that it is not lost.
    """
    keys = keys_of(values, labels).topk(k, dim=1).values
    return (keys >> 32).int().view(torch.float32), LOW - (keys & LOW)


def keys_of(values: Tensor, labels: Tensor) -> Tensor:
    """The keys (int64, at or above zero, all different) by which `_cut` orders."""
    bits = values.clamp_min(0.0).abs_().view(torch.int32).long()
    return bits.bitwise_left_shift_(32).bitwise_or_(LOW - labels)


def _nominated(
    z: Tensor, enc: Tensor, b_enc: Tensor, k: int, count: int, nominate: Nominate, pairs: Pairs
) -> Chosen:
    rough, weight, bias = z.bfloat16(), enc.bfloat16(), b_enc.bfloat16()
    rows = chunk_rows(enc.shape[0], rough.element_size(), z.device)
    candidates = torch.cat(
        [nominate(linear(r, weight, bias), count) for r in torch.split(rough, rows)]
    )
    flat = candidates.flatten()
    order = flat.argsort(stable=True)
    latents = flat[order]
    products = torch.empty(flat.shape, dtype=z.dtype, device=z.device)
    products[order] = pairs(enc, z, latents, order // count, ends_of(latents, enc.shape[0]))
    exact = (products + b_enc[flat]).view_as(candidates)
    values, indices = _cut(exact, candidates, k)
    last = (indices == candidates[:, -1:]).logical_and_(values > 0).any(1)
    return Chosen(values, indices, last.sum() / max(1, last.numel()))


def _candidates(pre: Tensor, count: int) -> Tensor:
    """Latents `[B, count]` of about the largest entries of `pre [B, d_sae]` (bfloat16), best first.

    Compared as integers, which torch does faster; negative entries come out somewhere at the end.
    Blocks are strided here, latents j, j + n, j + 2n ..., so that their largest is a vector
    operation; which of two equal entries is taken does not matter among candidates.
    """
    rows, width = pre.shape
    per_block = 2 ** int(math.log2(max(1.0, math.sqrt(width / count))))
    per_block = math.gcd(width, per_block)
    n = width // per_block
    blocks = pre.view(torch.int16).view(rows, per_block, n)
    best = blocks.amax(1).topk(count, dim=1).indices
    latents = (best[:, None, :] + torch.arange(0, width, n, device=pre.device)[:, None]).flatten(1)
    inside = pre.view(torch.int16).gather(1, latents).topk(count, dim=1).indices
    return latents.gather(1, inside)
