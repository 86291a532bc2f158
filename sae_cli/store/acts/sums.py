"""Sums over rows, fast, and the same to the last bit however many threads a process has.

Summing runs beside the forward, so it must cost little. Rows pass in tiles through a buffer that
fits the cache: a typical row is subtracted (or a mean far larger than the spread would cancel the
digits), then the values, and in their place the squares, are summed over 64 rows at a time by a
product with ones in float32; these sums add up in float64. One thread does it all: products split
their work by the number of threads, and the split shows in the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_TILE = 2**19
"""Numbers in a tile: what a core's cache holds."""
_SUMMED = 64
"""Rows summed in float32, at most. A variance is off by 6e-7 then; with 2048 rows, by 5e-6."""
_LEAST, _MOST = 16, 8192
_TILES_ON_A_GPU = 16


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside, whatever the caller computes with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gather(
    rows: Tensor, absent: NDArray[np.int64], pivot: Tensor, norms: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sums over rows of (x - pivot) and of its square, float64 [2, d]; and the norms of all rows.

    Computed in the pivot's dtype. Rows `absent` (sorted) don't count. `norms` [n] are taken as
    given.
    """
    n, d = rows.shape
    size, group = rows_at_once(rows.device, d), min(_SUMMED, tile_rows(d))
    size = min(size, -(-n // group) * group)
    x = torch.empty(size, d, dtype=pivot.dtype, device=rows.device)
    groups = x.view(-1, group, d)
    ones = torch.ones(len(groups), 1, group, dtype=pivot.dtype, device=rows.device)
    sums = torch.empty(2, len(groups), 1, d, dtype=pivot.dtype, device=rows.device)
    of_values, of_squares = sums
    found = torch.empty(n, dtype=pivot.dtype, device=rows.device) if norms is None else norms
    total = torch.zeros(2, d, dtype=torch.float64, device=rows.device)
    for at in range(0, n, size):
        part = rows[at : at + size]
        m = len(part)
        x[:m].copy_(part)
        if norms is None:
            torch.linalg.vector_norm(x[:m], dim=1, out=found[at : at + m])
        x.sub_(pivot)
        x[m:].zero_()
        here = absent[slice(*np.searchsorted(absent, (at, at + m)))] - at
        if len(here):
            x.index_fill_(0, torch.from_numpy(here).to(rows.device), 0.0)
        torch.bmm(ones, groups, out=of_values)
        torch.bmm(ones, groups.mul_(groups), out=of_squares)
        total += sums.view(2, -1, d).sum(1, dtype=torch.float64)
    return total.cpu(), found


def typical(rows: Tensor, kept: NDArray[np.int64]) -> Tensor:
    """A row [d] near the bulk of the `kept` ones, whatever outliers are among them.

    Per dimension, the median of three medians of three, out of nine rows that lie evenly spread
    (Tukey's ninther).
    """
    chosen = kept[np.arange(9) * (len(kept) - 1) // 8]
    nine = rows[torch.from_numpy(chosen).to(rows.device)]
    three = _median(nine[0:3], nine[3:6], nine[6:9])
    return _median(three[0], three[1], three[2])


def _median(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def tile_rows(d: int) -> int:
    """Rows of a tile, a power of two that hangs on `d` alone."""
    return max(_LEAST, min(_MOST, 1 << (_TILE // d).bit_length() - 1)) if d <= _TILE else _LEAST


def rows_at_once(device: torch.device, d: int) -> int:
    """Rows to work on at once, whole tiles: what fits a cache, or keeps a GPU busy."""
    return tile_rows(d) if device.type == "cpu" else tile_rows(d) * _TILES_ON_A_GPU
