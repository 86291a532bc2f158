# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
"""The B * k largest positive pre-activations of a whole batch, exact, and no sort of any of it.

One histogram over the batch gives the exact cut of bfloat16 numbers (two or three that of float32
ones; see `cut`). The number of levels is fixed and each looks on the device whether it is needed,
so the host never waits. A second reading counts each row's share, a third writes it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_cli.sae.kernels import cut
from sae_cli.sae.kernels.lists import Kept

_BLOCK = 4096
_PROGRAMS = 1024
MOST = 2**31 - 1 - _BLOCK
"""Entries of a batch, at most."""


def batch_top_k(pre: Tensor, k: int) -> Kept:
    """The B * k largest entries of `pre [B, d_sae]` that are positive (fewer where fewer are).

    `pre` is float32, float16 or bfloat16, of less than 2^31 - 4096 entries. Of equal values at the
    cut those first in row-major order are kept; NaN counts as larger than everything.
    Deterministic: the only atomic additions are of integers. Bussmann et al. 2024, "BatchTopK
    sparse autoencoders" (arXiv 2412.06410).
    """
    assert pre.dim() == 2 and k >= 1 and pre.dtype in cut.QUANTA and pre.numel() <= MOST
    pre = pre.contiguous()
    (rows, width), device, quantum = pre.shape, pre.device, cut.QUANTA[pre.dtype]
    room = rows * min(k, width)
    values = torch.zeros(room, dtype=pre.dtype, device=device)
    latents = torch.full((room,), width, dtype=torch.int64, device=device)
    places = torch.full((room,), rows, dtype=torch.int64, device=device)
    row_ends = torch.zeros(rows + 1, dtype=torch.int64, device=device)
    if room:
        state = torch.zeros(4, dtype=torch.int32, device=device)
        counts = torch.zeros(
            cut.LEVELS[pre.dtype], cut.BINS.value, dtype=torch.int32, device=device
        )
        blocks = triton.cdiv(pre.numel(), _BLOCK)
        for level, bins in enumerate(counts):
            first = level == 0
            _count[(min(blocks, _PROGRAMS),)](
                pre, bins, state, pre.numel(),
                FIRST=first, QUANTUM=quantum, BLOCK=_BLOCK, num_warps=8,
            )  # fmt: skip
            _narrow[(1,)](bins, state, room, FIRST=first, QUANTUM=quantum, num_warps=8)
        block = min(_BLOCK, triton.next_power_of_2(width))
        above, inside = torch.empty(2, rows, dtype=torch.int64, device=device)
        _shares[(rows,)](pre, state, above, inside, width, BLOCK=block, num_warps=8)
        before = inside.cumsum(0) - inside
        shares = torch.minimum((state[2] - before).clamp_min(0), inside)
        torch.cumsum(above + shares, 0, out=row_ends[1:])
        _write[(rows,)](
            pre, state, shares, row_ends, values, latents, places, width, BLOCK=block, num_warps=8
        )
    return Kept(values, latents, places, row_ends)


@triton.jit
def _count(pre, bins, state, n, FIRST: tl.constexpr, QUANTUM: tl.constexpr, BLOCK: tl.constexpr):
    lo = tl.load(state)
    hi = tl.load(state + 1)
    if FIRST or cut.open_cut(lo, hi, tl.load(state + 2), tl.load(state + 3), QUANTUM):
        counts = tl.zeros((cut.BINS,), tl.int32)
        shift = 0 if FIRST else cut.shift_for(lo, hi, QUANTUM)
        for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)):
            places = block * BLOCK + tl.arange(0, BLOCK)
            mask = places < n
            key = cut.keys_of(tl.load(pre + places, mask=mask, other=0.0), mask)
            if FIRST:
                within = key > 0
                key = cut.first_bins(key)
            else:
                within = (key >= lo) & (key < hi)
                key = tl.where(within, (key - lo) >> shift, 0)
            counts += tl.histogram(key, cut.BINS, mask=within)
        tl.atomic_add(bins + tl.arange(0, cut.BINS), counts, mask=counts > 0, sem="relaxed")


@triton.jit
def _narrow(bins, state, wanted, FIRST: tl.constexpr, QUANTUM: tl.constexpr):
    """Writes the interval, what to take of it and how many it has: all positive ones where the
    batch has no more than is wanted.
    """
    counts = tl.load(bins + tl.arange(0, cut.BINS))
    if FIRST:
        if tl.sum(counts, 0) <= wanted:
            tl.store(state, 1)
            tl.store(state + 1, 1)
        else:
            found, need, inside = cut.cut_bin(counts, wanted)
            lo, hi = cut.first_interval(found)
            tl.store(state, lo)
            tl.store(state + 1, hi)
            tl.store(state + 2, need)
            tl.store(state + 3, inside)
    else:
        lo = tl.load(state)
        hi = tl.load(state + 1)
        need = tl.load(state + 2)
        if cut.open_cut(lo, hi, need, tl.load(state + 3), QUANTUM):
            found, need, inside = cut.cut_bin(counts, need)
            lo, hi = cut.next_interval(found, lo, hi, cut.shift_for(lo, hi, QUANTUM))
            tl.store(state, lo)
            tl.store(state + 1, hi)
            tl.store(state + 2, need)
            tl.store(state + 3, inside)


@triton.jit
def _shares(pre, state, above, inside, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    pre += row * width
    lo = tl.load(state)
    hi = tl.load(state + 1)
    n_above = tl.zeros((BLOCK,), tl.int32)
    n_inside = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, width, BLOCK):
        places = start + tl.arange(0, BLOCK)
        mask = places < width
        key = cut.keys_of(tl.load(pre + places, mask=mask, other=0.0), mask)
        n_above += (key >= hi).to(tl.int32)
        n_inside += ((key >= lo) & (key < hi)).to(tl.int32)
    tl.store(above + row, tl.sum(n_above, 0).to(tl.int64))
    tl.store(inside + row, tl.sum(n_inside, 0).to(tl.int64))


@triton.jit
def _write(
    pre, state, shares, row_ends, values, latents, rows, width, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lo = tl.load(state)
    hi = tl.load(state + 1)
    need = tl.load(shares + row).to(tl.int32)
    written = tl.load(row_ends + row)
    if tl.load(row_ends + row + 1) > written:
        seen = 0
        for start in range(0, width, BLOCK):
            places = start + tl.arange(0, BLOCK)
            mask = places < width
            x = tl.load(pre + row * width + places, mask=mask, other=0.0)
            kept, seen = cut.chosen(cut.keys_of(x, mask), lo, hi, need, seen)
            to = written + tl.cumsum(kept.to(tl.int32), 0) - 1
            tl.store(values + to, x, mask=kept)
            tl.store(latents + to, places.to(tl.int64), mask=kept)
            tl.store(rows + to, tl.zeros((BLOCK,), tl.int64) + row, mask=kept)
            written += tl.sum(kept.to(tl.int32), 0)
