"""Tokens of extreme norm, marked by one rule wherever activations are seen.

Caching marks them in the stored mask; evaluation marks them in held-out text, with the limit that
caching found. What a mark means is `masks`' business.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.lm import masks


def norms(acts: Tensor) -> Tensor:
    """L2 norms, float32 [...], of activations [..., d] of any float dtype."""
    found: Tensor = torch.linalg.vector_norm(acts.float(), dim=-1)
    return found


def marked(reasons: NDArray[np.uint8], acts: Tensor, limit: float | None) -> NDArray[np.uint8]:
    """`reasons` [...] with OUTLIER set where the norm of `acts` [..., d] exceeds `limit`.

    Without a limit, `reasons` as they are. The argument stays unchanged.
    """
    if limit is None:
        return reasons
    over = (norms(acts) > limit).cpu().numpy()
    out: NDArray[np.uint8] = reasons | (over.astype(np.uint8) * np.uint8(masks.OUTLIER))
    return out
