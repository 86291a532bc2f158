"""Tokens of extreme norm, marked by one rule wherever activations are seen.

Caching marks them in the stored mask; evaluation marks them in held-out text, with the limit that
caching found. What a mark means is `masks`' business.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.lm import masks


def marked(reasons: NDArray[np.uint8], norms: Tensor, limit: float | None) -> NDArray[np.uint8]:
    """`reasons` [...] with OUTLIER set where `norms` [...] exceed `limit`.

    Without a limit, `reasons` as they are. The argument stays unchanged.
    """
    if limit is None:
        return reasons
    over = (norms > limit).cpu().numpy()
    out: NDArray[np.uint8] = reasons | (over.astype(np.uint8) * np.uint8(masks.OUTLIER))
    return out
