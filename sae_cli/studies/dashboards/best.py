"""The best K windows of every feature, by any rank, in one pass and without a loop over features.

Most windows of a long text are no news: one comparison with the worst that a feature holds tells.
What is left is merged for the features concerned alone: one sort by (feature, rank), first K stay.
Of equal ranks the earlier arrival stays, so what is held depends on the order of the text and not
on how it came in batches. The activations of a window are copied once, when it enters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_cli.store.dashboards import NONE, Examples

Ints = NDArray[np.int64]
Values = Callable[[Ints], NDArray[np.float32]]


class Best:
    """The K lowest-ranked windows of each of `features` features."""

    def __init__(self, features: int, k: int, window: int, worst: Any) -> None:
        """`worst` is a numpy scalar of the ranks' type, above every rank that comes."""
        self._k = k
        self._rank = np.full((features, k), worst)
        self._number = np.full((features, k), NONE, dtype=np.int64)
        self._slot = np.tile(np.arange(k, dtype=np.int32), (features, 1))
        self._values = np.zeros((features, k, window), dtype=np.float32)

    def add(self, feature: Ints, rank: NDArray[Any], number: Ints, values: Values) -> None:
        """More windows `number [n]`, each for a `feature [n]` with a `rank [n]`; for one feature,
        later windows after earlier ones. `values(at)` gives the activations `[m, window]` of some
        of them, `at` [m] into these arrays."""
        news = np.flatnonzero(rank < self._rank[feature, -1])
        if not len(news):
            return
        touched, owner_of_news = np.unique(feature[news], return_inverse=True)
        held = len(touched) * self._k
        owner = np.concatenate([np.repeat(np.arange(len(touched)), self._k), owner_of_news])
        ranks = np.concatenate([self._rank[touched].ravel(), rank[news]])
        order = np.lexsort((ranks, owner))  # stable: equal ranks in order of arrival
        owners = owner[order]
        stays = np.arange(len(order)) - np.searchsorted(owners, owners) < self._k
        kept, gone = order[stays], order[~stays]
        left = gone[gone < held]  # one for each new one that stays, feature by feature
        slots = np.concatenate([self._slot[touched].ravel(), np.zeros(len(news), np.int32)])
        entered = kept[kept >= held]
        slots[entered] = slots[left]
        numbers = np.concatenate([self._number[touched].ravel(), number[news]])
        shape = (len(touched), self._k)
        self._rank[touched] = ranks[kept].reshape(shape)
        self._number[touched] = numbers[kept].reshape(shape)
        self._slot[touched] = slots[kept].reshape(shape)
        self._values[touched[owner[entered]], slots[entered]] = values(news[entered - held])

    def found(self) -> Examples:
        """What is held, lowest rank first."""
        values = np.empty_like(self._values)
        for start in range(0, len(values), 4096):  # no third copy of all of it
            part = slice(start, start + 4096)
            values[part] = np.take_along_axis(
                self._values[part], self._slot[part][:, :, None].astype(np.int64), axis=1
            )
        return Examples(self._number.copy(), values)
