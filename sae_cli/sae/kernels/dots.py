# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
"""Dot products of pairs of rows, gathered: the gradients of values, or candidates made exact.

The GPU's version of `sparse.dots`. A program has some neighbouring pairs and keeps a left row as
long as it is the same, so a left row that many pairs have is no more work than many that few have.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_cli.sae.kernels import rows

_PAIRS = 8


def dots(left: Tensor, right: Tensor, lefts: Tensor, rights: Tensor, ends: Tensor) -> Tensor:
    """left[lefts[i]] . right[rights[i]] for each i: float32 `[n]`.

    `left [a, d]`, `right [b, d]` in float32 or bfloat16, products and sums in float32; `lefts` and
    `rights [n]` (int64). `lefts` ascends, which makes it fast, and only the pairs before the last
    of `ends` (int64) are made; the others are 0. Deterministic.
    """
    (d,) = {left.shape[1], right.shape[1]}
    out = torch.zeros(lefts.shape, dtype=torch.float32, device=left.device)
    if out.numel():
        _dots[(triton.cdiv(out.numel(), _PAIRS),)](
            left.contiguous(), right.contiguous(), lefts.contiguous(), rights.contiguous(),
            ends[-1:], out, d, PAIRS=_PAIRS, num_warps=rows.warps(d), **rows.halves(d),
        )  # fmt: skip
    return out


@triton.jit
def _dots(
    left, right, lefts, rights, end, out, d,
    PAIRS: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * PAIRS
    held = tl.full((), -1, tl.int64)
    w, w_tail = rows.zero_row(HEAD, TAIL)
    for place in range(start, tl.minimum(start + PAIRS, tl.load(end))):
        wanted = tl.load(lefts + place)
        if wanted != held:
            w, w_tail = rows.load_row(left, wanted, d, HEAD, TAIL)
            held = wanted
        x, x_tail = rows.load_row(right, tl.load(rights + place), d, HEAD, TAIL)
        tl.store(out + place, rows.dot(w, w_tail, x, x_tail))
