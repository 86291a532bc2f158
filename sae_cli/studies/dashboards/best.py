"""The best K windows of every feature, by any rank, in one pass and without a loop over features.

Most windows of a long text are no news: one comparison with the worst that a feature held lately
tells. What is left waits until there is half as much of it as is held, and is merged by one sort by
(feature, rank) of which the first K stay; so a merge costs a constant for each that waited, however
many features there are. Of equal ranks the earlier arrival stays, so what is held depends on the
order of the text and not on how it came in batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_cli.store.dashboards import NONE, Examples

Ints = NDArray[np.int64]
Values = Callable[[Ints], NDArray[np.float32]]


LEAST_WAITING = 2**14
"""Windows that wait before they are merged, at least."""


class Best:
    """The K lowest-ranked windows of each of `features` features."""

    def __init__(self, features: int, k: int, window: int, worst: Any) -> None:
        """`worst` is a numpy scalar of the ranks' type, above every rank that comes."""
        self._k, self._window = k, window
        self._rank = np.full((features, k), worst)
        self._worst = np.full(features, worst)
        """The last rank of each feature when it was merged last."""
        self._number = np.full((features, k), NONE, dtype=np.int64)
        self._slot = np.tile(np.arange(k, dtype=np.int32), (features, 1))
        self._values = np.zeros((features, k, window), dtype=np.float32)
        self._waiting = list[tuple[Ints, NDArray[Any], Ints, NDArray[np.float32]]]()
        self._count, self._most = 0, max(LEAST_WAITING, features * k // 2)

    def add(self, feature: Ints, rank: NDArray[Any], number: Ints, values: Values) -> None:
        """More windows `number [n]`, each for a `feature [n]` with a `rank [n]`; for one feature,
        later windows after earlier ones. `values(at)` gives the activations `[m, window]` of some
        of them, `at` [m] into these arrays."""
        news = np.flatnonzero(rank < self._worst[feature])
        if not len(news):
            return
        self._waiting.append((feature[news], rank[news], number[news], values(news)))
        self._count += len(news)
        if self._count >= self._most:
            self._merge()

    def _merge(self) -> None:
        if not self._waiting:
            return
        feature, rank, number, values = map(np.concatenate, zip(*self._waiting, strict=True))
        self._waiting, self._count = [], 0
        touched, owner_of_news = np.unique(feature, return_inverse=True)
        held = len(touched) * self._k
        owner = np.concatenate([np.repeat(np.arange(len(touched)), self._k), owner_of_news])
        ranks = np.concatenate([self._rank[touched].ravel(), rank])
        order = np.lexsort((ranks, owner))  # stable: equal ranks in order of arrival
        owners = owner[order]
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        stays = np.arange(len(order)) - first[owners] < self._k
        kept, gone = order[stays], order[~stays]
        left = gone[gone < held]  # one for each new one that stays, feature by feature
        slots = np.concatenate([self._slot[touched].ravel(), np.zeros(len(rank), np.int32)])
        entered = kept[kept >= held]
        slots[entered] = slots[left]
        numbers = np.concatenate([self._number[touched].ravel(), number])
        shape = (len(touched), self._k)
        self._rank[touched] = ranks[kept].reshape(shape)
        self._worst[touched] = self._rank[touched, -1]
        self._number[touched] = numbers[kept].reshape(shape)
        self._slot[touched] = slots[kept].reshape(shape)
        self._values[touched[owner[entered]], slots[entered]] = values[entered - held]

    def found(self) -> Examples:
        """What is held, lowest rank first."""
        self._merge()
        values = np.empty_like(self._values)
        for start in range(0, len(values), 4096):  # no third copy of all of it
            part = slice(start, start + 4096)
            values[part] = np.take_along_axis(
                self._values[part], self._slot[part][:, :, None].astype(np.int64), axis=1
            )
        return Examples(self._number.copy(), values)
