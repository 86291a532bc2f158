# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
"""Exact top-k of each row without sorting it: find the cut by histograms, then write what is in.

The GPU's version of `selection.top_k`. One program has one row and reads it twice for bfloat16 and
about three times for float32; all but the first reading mostly come from the L2 cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_cli.sae.kernels import cut

_BLOCK = 4096


def top_k(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and latent indices of the k largest entries of each row of `pre [B, d_sae]`.

    `pre` is float32, float16 or bfloat16. Returns `values [B, k]` in its format, clamped at zero,
    and `indices [B, k]` (int64), ascending in each row; k is at most d_sae (a larger one counts as
    d_sae). Of equal values at the cut the lower indices win, entries that are not positive counting
    as equal; NaN counts as larger than everything and stays NaN. Deterministic.
    """
    assert pre.dim() == 2 and k >= 1 and pre.dtype in cut.QUANTA
    rows, width = pre.shape
    k = min(k, width)
    values = torch.empty(rows, k, dtype=pre.dtype, device=pre.device)
    indices = torch.empty(rows, k, dtype=torch.int64, device=pre.device)
    if rows:
        block = min(_BLOCK, triton.next_power_of_2(width))
        _top_k[(rows,)](
            pre.contiguous(), values, indices, width, k,
            QUANTUM=cut.QUANTA[pre.dtype], BLOCK=block, num_warps=8,
        )  # fmt: skip
    return values, indices


@triton.jit
def _top_k(pre, values, indices, width, k, QUANTUM: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    pre += row * width
    counts = tl.zeros((cut.BINS,), tl.int32)
    for start in range(0, width, BLOCK):
        places = start + tl.arange(0, BLOCK)
        mask = places < width
        key = cut.keys_of(tl.load(pre + places, mask=mask, other=0.0), mask)
        counts += tl.histogram(cut.first_bins(key), cut.BINS, mask=mask)
    found, need, inside = cut.cut_bin(counts, k)
    lo, hi = cut.first_interval(found)
    while cut.open_cut(lo, hi, need, inside, QUANTUM):
        shift = cut.shift_for(lo, hi, QUANTUM)
        counts = tl.zeros((cut.BINS,), tl.int32)
        for start in range(0, width, BLOCK):
            places = start + tl.arange(0, BLOCK)
            mask = places < width
            key = cut.keys_of(tl.load(pre + places, mask=mask, other=0.0), mask)
            within = (key >= lo) & (key < hi)
            counts += tl.histogram(tl.where(within, (key - lo) >> shift, 0), cut.BINS, mask=within)
        found, need, inside = cut.cut_bin(counts, need)
        lo, hi = cut.next_interval(found, lo, hi, shift)
    values += row * k
    indices += row * k
    seen = 0
    written = 0
    for start in range(0, width, BLOCK):
        places = start + tl.arange(0, BLOCK)
        mask = places < width
        x = tl.load(pre + places, mask=mask, other=0.0).to(tl.float32)
        kept, seen = cut.chosen(cut.keys_of(x, mask), lo, hi, need, seen)
        to = written + tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(values + to, tl.where(x <= 0.0, 0.0, x), mask=kept)
        tl.store(indices + to, places.to(tl.int64), mask=kept)
        written += tl.sum(kept.to(tl.int32), 0)
