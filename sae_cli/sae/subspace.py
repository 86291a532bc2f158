"""Starting directions inside the part of the space that the activations fill.

Wang et al. 2025, "Attention Layers Add Into Low-Dimensional Residual Subspaces" (arXiv 2508.16929):
some 60 % of the directions hold 99 % of the variance of an attention layer's output, and latents
that start elsewhere die (87 % of a million; below 1 % when they start inside). Residual streams
and MLP outputs fill about 90 %.

The active subspace is spanned by the leading principal directions of a batch that hold `SHARE` of
its variance. Rows are projected onto it and get their norms back, so an architecture's own start
(enc = dec, some norm) stays what it is; training is free to leave the subspace.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHARE = 0.99
"""Of the variance that the subspace holds, as in the source."""


def active_subspace(z: Tensor) -> Tensor:
    """An orthonormal basis `[d_in, r]` of the subspace that `z [B, d_in]` fills about its mean.

    r is the fewest principal directions that hold `SHARE` of the variance, at least one.
    """
    centred = (z - z.mean(0)).double()
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    held = variances.clamp_min(0.0).flip(0).cumsum(0)
    rank = int((held < SHARE * held[-1]).sum()) + 1
    basis: Tensor = directions.flip(1)[:, :rank].to(z.dtype)
    return basis


def into_active_subspace(params: dict[str, Tensor], z: Tensor) -> int:
    """Turn the rows of `enc` and `dec [d_sae, d_in]` into the active subspace of `z`, in place.

    Norms are kept. Returns the subspace's dimension.
    """
    basis = active_subspace(z)
    for name in ("enc", "dec"):
        if name in params:
            rows = params[name]
            norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            rows.copy_((rows @ basis) @ basis.T)
            after = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            rows.mul_(norms / after.clamp_min(torch.finfo(rows.dtype).tiny))
    return basis.shape[1]
