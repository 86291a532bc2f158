"""The exact n-th largest of more numbers than memory holds, in two passes.

Positive floats have the order of their bits, so a histogram over the upper bits finds the bin that
holds the answer, and one over the lower bits of that bin finds the answer itself. No sort, and no
average that would have to settle: a threshold is calibrated once, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

LOW_BITS = 16


def nth_largest(
    passes: Callable[[], Iterable[Tensor]],
    n: int,
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> float:
    """The n-th largest positive number, as float32, of all that one call of `passes` yields.

    Each call of `passes` must yield the same tensors (of any shape). Zero where fewer than n are
    positive. Where the numbers lie in several processes, `total` adds their counts up.
    """
    assert n >= 1
    upper = total(_histogram(passes(), lambda bits: bits >> LOW_BITS))
    found = _place(upper, n)
    if found is None:
        return 0.0
    top, above = found
    lower = total(
        _histogram(passes(), lambda bits: bits[(bits >> LOW_BITS) == top] & ((1 << LOW_BITS) - 1))
    )
    within = _place(lower, n - above)
    assert within is not None, "the second pass saw other numbers than the first"
    bits = torch.tensor((top << LOW_BITS) | within[0], dtype=torch.int32)
    return float(bits.view(torch.float32))


def _histogram(parts: Iterable[Tensor], bin_of: Callable[[Tensor], Tensor]) -> Tensor:
    total = torch.zeros(1 << LOW_BITS, dtype=torch.int64)
    for part in parts:
        positive = part[part > 0].float()
        bins = bin_of(positive.view(torch.int32))
        total += torch.bincount(bins, minlength=total.numel()).cpu()
    return total


def _place(histogram: Tensor, n: int) -> tuple[int, int] | None:
    """The bin of the n-th largest, and how many lie in higher bins; None where there are fewer."""
    upto = histogram.flip(0).cumsum(0)
    if int(upto[-1]) < n:
        return None
    at = int(torch.searchsorted(upto, n))
    return upto.numel() - 1 - at, int(upto[at] - histogram.flip(0)[at])
