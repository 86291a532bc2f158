"""The exact n-th largest of more numbers than memory holds, for any n in the same two passes.

Positive floats have the order of their bits, so a histogram over the upper bits finds the bin that
holds the answer, and one over the lower bits of that bin finds the answer itself. No sort, and no
average that would have to settle: a threshold is calibrated once, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

LOW_BITS = 16


def nth_largest(
    passes: Callable[[], Iterable[Tensor]],
    ranks: Sequence[int],
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> list[float]:
    """For each n of `ranks` the n-th largest positive number, as float32, of all that one call of
    `passes` yields; zero where fewer are positive.

    Each call of `passes` must yield the same tensors (of any shape). Where the numbers lie in
    several processes, `total` adds their counts up.
    """
    assert min(ranks) >= 1
    (upper,) = total(_histograms(passes(), 1, lambda bits: [bits >> LOW_BITS]))
    places = [_place(upper, n) for n in ranks]
    tops = sorted({place[0] for place in places if place is not None})
    if not tops:
        return [0.0] * len(ranks)

    def within(bits: Tensor) -> list[Tensor]:
        return [bits[(bits >> LOW_BITS) == top] & ((1 << LOW_BITS) - 1) for top in tops]

    lower = dict(zip(tops, total(_histograms(passes(), len(tops), within)), strict=True))
    found = []
    for n, place in zip(ranks, places, strict=True):
        bits = 0
        if place is not None:
            top, above = place
            low = _place(lower[top], n - above)
            assert low is not None, "the second pass saw other numbers than the first"
            bits = (top << LOW_BITS) | low[0]
        found.append(float(torch.tensor(bits, dtype=torch.int32).view(torch.float32)))
    return found


def _histograms(
    parts: Iterable[Tensor], count: int, bins_of: Callable[[Tensor], list[Tensor]]
) -> Tensor:
    """`[count, 2^16]`: how many positive numbers are in each of the bins."""
    total = torch.zeros(count, 1 << LOW_BITS, dtype=torch.int64)
    for part in parts:
        positive = part[part > 0].float()
        for row, bins in zip(total, bins_of(positive.view(torch.int32)), strict=True):
            row += torch.bincount(bins, minlength=row.numel()).cpu()
    return total


def _place(histogram: Tensor, n: int) -> tuple[int, int] | None:
    """The bin of the n-th largest, and how many lie in higher bins; None where there are fewer."""
    upto = histogram.flip(0).cumsum(0)
    if int(upto[-1]) < n:
        return None
    at = int(torch.searchsorted(upto, n))
    return upto.numel() - 1 - at, int(upto[at] - histogram.flip(0)[at])
