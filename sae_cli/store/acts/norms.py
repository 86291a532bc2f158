"""Norms, and how they are distributed, in a form that adds up exactly: bins fixed for ever.

Whoever counts, in whatever parts and order, finds the same integers. Bins are spaced by a factor
of 2^(1/32) from 2^-16 to 2^24, with one for all that is smaller (the first) and one for all that
is larger (the last).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.store.acts.sums import rows_at_once

PER_OCTAVE = 32
LOWEST, HIGHEST = -16, 24
"""Powers of two between which bins lie."""
BINS = (HIGHEST - LOWEST) * PER_OCTAVE + 2
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Those that are written beside the histogram."""


def norms_of(rows: Tensor) -> Tensor:
    """L2 norms, float32 [n] on the same device, of `rows` [n, d] of any floating dtype."""
    out = torch.empty(len(rows), device=rows.device)
    size = rows_at_once(rows.device, rows.shape[1])
    for at in range(0, len(rows), size):
        part = rows[at : at + size].detach().float()
        torch.linalg.vector_norm(part, dim=1, out=out[at : at + size])
    return out


def edges() -> NDArray[np.float64]:
    """[BINS - 1], the norms at which a next bin begins."""
    return np.exp2(np.arange(BINS - 1) / PER_OCTAVE + LOWEST)


def histogram(norms: NDArray[Any]) -> NDArray[np.int64]:
    """int64 [BINS], how many of `norms` lie in each bin; NaN counts as too large."""
    below = np.searchsorted(np.sort(norms.astype(np.float64)), edges(), side="left")
    return np.diff(below, prepend=0, append=len(norms)).astype(np.int64)


def quantile(counts: NDArray[np.int64], q: float) -> float:
    """The smallest norm that at least a share `q` (0 to 1) of rows does not exceed.

    The middle of its bin, so wrong by at most a factor of 2^(1/64) (1.1 %). A norm below 2^-16 is
    given as 0, one of 2^24 or more as inf, that of no rows as NaN.
    """
    upto = np.cumsum(counts)
    if upto[-1] == 0:
        return math.nan
    found = int(np.searchsorted(upto, max(1, math.ceil(q * int(upto[-1])))))
    if found == 0:
        return 0.0
    if found == BINS - 1:
        return math.inf
    return float(2.0 ** ((found - 0.5) / PER_OCTAVE + LOWEST))
