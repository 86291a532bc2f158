"""The k largest pre-activations of every row, with a rule for ties.

`torch.topk` does not say which of two equal values it keeps, and a resumed run must keep the same
one. Here the rule is fixed: of equal values at the cut the lower latent index wins. Equal values
that are not positive are not told apart, because they are inactive either way.
"""

from __future__ import annotations

import torch
from torch import Tensor


def top_k(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and latent indices of the k largest entries of each row of `pre [B, d_sae]`.

    Returns `values [B, k]`, clamped at zero (TopK keeps positive pre-activations only), and
    `indices [B, k]` (int64), each row holding a latent at most once. Ties at the k-th place go to
    the lower index. k at or above d_sae keeps every positive entry.
    """
    assert pre.dim() == 2 and k >= 1
    width = pre.shape[1]
    if k >= width:
        indices = torch.arange(width, device=pre.device).expand(pre.shape[0], width)
        return pre.clamp_min(0.0), indices.contiguous()
    values, indices = pre.topk(k + 1, dim=1)
    tied = (values[:, k] == values[:, k - 1]) & (values[:, k] > 0)
    values, indices = values[:, :k].clamp_min(0.0), indices[:, :k].contiguous()
    rows = tied.nonzero().flatten()
    if rows.numel():
        ordered = pre[rows].sort(dim=1, descending=True, stable=True)
        values[rows] = ordered.values[:, :k]
        indices[rows] = ordered.indices[:, :k]
    return values, indices
