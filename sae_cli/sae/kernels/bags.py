# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
"""Weighted sums of gathered rows: a token's latents (decoding), or a latent's tokens.

The GPU's version of `sparse.bags`. One program makes one block of columns of one sum, with four
rows underway at a time, and reads rows in the number format that they have (bfloat16 halves the
traffic, which is all that this costs). No [members, d] tensor is made, and d is not padded.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = (1024, 512, 256)


def bags(
    weights: Tensor, members: Tensor, ends: Tensor, table: Tensor, bias: Tensor | None = None
) -> Tensor:
    """sum over i in [ends[b], ends[b + 1]) of weights[i] * table[members[i]], + bias: `[n, d]`.

    `weights [m]`, `members [m]` (int64), `ends [n + 1]` (int64), `table [rows, d]` in float32 or
    bfloat16, `bias [d]`. Sums and result are float32. Members of weight 0 are not read, nor is what
    stands beyond the last end. Deterministic: one program adds a sum up, in one order.

    Decoding, x_hat = f W_dec + b_dec: the weights are the values and the members the latents.
    """
    assert weights.shape == members.shape and table.dim() == 2
    n, d = ends.numel() - 1, table.shape[1]
    out = torch.empty(n, d, dtype=torch.float32, device=table.device)
    if n:
        block = min(_columns(d), max(16, triton.next_power_of_2(d)))
        _bags[(n, triton.cdiv(d, block))](
            weights.contiguous(), members.contiguous(), ends, table.contiguous(),
            table if bias is None else bias.contiguous(), out, d,
            BIAS=bias is not None, BLOCK=block, num_warps=4,
        )  # fmt: skip
    return out


def _columns(d: int) -> int:
    """The block that leaves the fewest lanes idle at the end of a row; of several the largest."""
    return min(_COLUMNS, key=lambda block: triton.cdiv(d, block) * block)


@triton.jit
def _bags(
    weights, members, ends, table, bias, out, d, BIAS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < d
    start = tl.load(ends + row)
    end = tl.load(ends + row + 1)
    sums = tl.zeros((4, BLOCK), tl.float32)
    for at in range(start, end, 4):
        entries = at + tl.arange(0, 4)
        here = entries < end
        weight = tl.load(weights + entries, mask=here, other=0.0).to(tl.float32)
        member = tl.load(members + entries, mask=here, other=0)
        wanted = (weight != 0.0)[:, None] & mask[None, :]
        places = table + member[:, None] * d + columns[None, :]
        sums += weight[:, None] * tl.load(places, mask=wanted, other=0.0).to(tl.float32)
    total = tl.sum(sums, 0)
    if BIAS:
        total += tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * d + columns, total, mask=mask)
