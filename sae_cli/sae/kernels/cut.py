# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
"""The parts that selection by a cut is made of, for kernels to call.

Floats are compared through integer keys: the bits of a positive float32 grow with it, and all that
is not positive has key 0. A cut is an interval [lo, hi) of keys and a number `need`: keys at or
above hi are in, and of those inside the interval the first `need` in order of place. Histograms
narrow the interval until it holds one key, or as many entries as are needed. The first histogram
has one bin for each bfloat16 number of 16 octaves, 2^-9 to 2^7, and a bin for the numbers beyond
either end; so one is enough for bfloat16 unless the cut lies outside, and then more follow: the cut
is exact whatever the numbers are. Counts are integers, so their order doesn't matter.

This is radix selection (Alabi et al. 2012, "Fast k-selection algorithms for graphics processing
units"), with a first digit that fits pre-activations.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BINS: tl.constexpr = tl.constexpr(2048)
_WINDOW: tl.constexpr = tl.constexpr((127 - 9) * 128)
_NAN: tl.constexpr = tl.constexpr(0x7F810000)
_END: tl.constexpr = tl.constexpr(0x7F820000)
QUANTA = {torch.float32: 1, torch.float16: 1 << 13, torch.bfloat16: 1 << 16}
"""How far apart the keys of two numbers of a format are at least."""
LEVELS = {torch.float32: 4, torch.float16: 3, torch.bfloat16: 3}
"""Histograms after which every cut is found: an open bin spans 2^31 keys, each divides by 2^11."""


@triton.jit
def keys_of(x, mask):
    """int32 keys of `x`: grow with it, 0 where not positive, above all for NaN, -1 off `mask`."""
    x = x.to(tl.float32)
    bits = x.to(tl.int32, bitcast=True)
    key = tl.where(x != x, _NAN, tl.where(x > 0.0, bits, 0))
    return tl.where(mask, key, -1)


@triton.jit
def first_bins(key):
    """Bin 0 has key 0 only, bin 1 and the last one all that is below and above the window."""
    inside = tl.minimum(tl.maximum((key >> 16) - _WINDOW, 1), BINS - 1)
    return tl.where(key > 0, inside, 0)


@triton.jit
def shift_for(lo, hi, QUANTUM: tl.constexpr):
    """The smallest shift with which [lo, hi) fits into the bins, and keys of one number do."""
    shift = 0
    while ((hi - lo - 1) >> shift >= BINS) | ((1 << shift) < QUANTUM):
        shift += 1
    return shift


@triton.jit
def cut_bin(counts, need):
    """The bin in which the `need`-th largest entry is; what it leaves to find; how many it has."""
    bins = tl.arange(0, BINS)
    at_least = tl.sum(counts, 0) - tl.cumsum(counts, 0) + counts
    found = tl.sum((at_least >= need).to(tl.int32), 0) - 1
    inside = tl.sum(tl.where(bins == found, counts, 0), 0)
    above = tl.sum(tl.where(bins > found, counts, 0), 0)
    return found, need - above, inside


@triton.jit
def first_interval(found):
    """The keys [lo, hi) of a bin of the first histogram."""
    lo = tl.where(found > 1, (_WINDOW + found) << 16, found)
    hi = tl.where(found == BINS - 1, _END, (_WINDOW + found + 1) << 16)
    return lo, tl.where(found == 0, 1, hi)


@triton.jit
def next_interval(found, lo, hi, shift):
    """The keys [lo, hi) of a bin of a histogram that divided an interval by 2^shift."""
    start = lo + (found << shift)
    return start, tl.minimum(start + (1 << shift), hi)


@triton.jit
def open_cut(lo, hi, need, inside, QUANTUM: tl.constexpr):
    """Whether an interval has to be narrowed further."""
    return (hi - lo > QUANTUM) & (inside > need)


@triton.jit
def chosen(key, lo, hi, need, seen):
    """Which of a block's keys are in, after `seen` earlier ones inside the interval; new `seen`."""
    inside = ((key >= lo) & (key < hi)).to(tl.int32)
    rank = seen + tl.cumsum(inside, 0)
    kept = (key >= hi) | ((inside > 0) & (rank <= need))
    return kept, seen + tl.sum(inside, 0)
