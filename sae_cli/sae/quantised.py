"""Adam's moments in 8 bits: one code a number, one float32 scale for each block of a row.

Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861): a block is
up to 256 neighbours, its scale the largest magnitude of them, and codes lie denser towards zero,
where most of a moment is. Here a block lies within one row, that is one latent, so a shard of
latents has whole blocks; and levels are powers of the code in place of the paper's tree:

    first moment    int8    m = scale * sign(c) * (c / 127)^2
    second moment   uint8   v = scale * (c / 255)^4

so that the smallest m is 6e-5 and the smallest sqrt(v) 1.5e-5 of the block's largest: their
quotient stays a sane step. A positive v is never rounded to zero, which would be divided by. Codes
are rounded at random, up or down in proportion, because a second moment moves by less than half of
a level a step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 256
"""Neighbours in a row that share a scale; the last block of a row may be shorter."""
SQUARINGS = {torch.int8: 1, torch.uint8: 2}
"""How often a code is squared to be a level, by the format of the codes."""
SNAP = 2.0**-14
"""Share of a level by which a number may miss it and is that level: what was rounded stays."""


def zeros(like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes and scales `[n, ceil(d / BLOCK)]` of a moment of `like [n, d]` that is zero."""
    blocks = -(-like.shape[1] // BLOCK)
    codes = torch.zeros_like(like, dtype=dtype)
    return codes, torch.zeros(like.shape[0], blocks, device=like.device)


def widened(codes: Tensor, scales: Tensor) -> Tensor:
    """The numbers, float32 `[n, d]`."""
    share = codes.float().div_(torch.iinfo(codes.dtype).max)
    _square(share.abs_(), codes)
    if codes.dtype == torch.int8:
        share.copysign_(codes)
    return share.mul_(_spread(scales, codes.shape[1]))


def narrow(exact: Tensor, noise: Tensor, codes: Tensor, scales: Tensor) -> None:
    """Write `exact [n, d]` to `codes` and `scales`; uint8 is for numbers at or above zero.

    `noise [n, d]`, integers from 0 to 2^16 - 1, decides who is rounded up.
    """
    top, width = torch.iinfo(codes.dtype).max, codes.shape[1]
    size = exact.abs()
    whole = pad(size, (0, scales.shape[1] * BLOCK - width))
    torch.amax(whole.view(*scales.shape, BLOCK), 2, out=scales)
    size.div_(_spread(torch.where(scales > 0, scales, 1.0), width))
    root = size.clone()
    for _ in range(SQUARINGS[codes.dtype]):
        root.sqrt_()
    low = root.mul_(top).add_(SNAP).floor_()
    here = _square(low / top, codes)
    gap = _square((low + 1).div_(top), codes).sub_(here)
    low.add_(size.sub_(here).div_(gap).sub_(SNAP).mul_(2**16) > noise)
    if codes.dtype == torch.uint8:
        low.masked_fill_((low == 0) & (exact > 0), 1)
    else:
        low.copysign_(exact)
    codes.copy_(low)


def _square(share: Tensor, codes: Tensor) -> Tensor:
    """Codes over the largest to levels over the largest, in place."""
    for _ in range(SQUARINGS[codes.dtype]):
        share.square_()
    return share


def _spread(scales: Tensor, width: int) -> Tensor:
    """Each number's own scale, `[n, width]`."""
    return scales.repeat_interleave(BLOCK, 1)[:, :width]
