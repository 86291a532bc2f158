"""Seeded choices whose surprise is kept.

The grammar's documents must be the same on every machine and every Python, so all randomness
goes through `random.Random.random`, the one method whose stream Python promises to keep, and
through nothing else. Every choice adds its surprise, so that a document knows how many nats of
chance went into it: no model that reads whole documents can do better on average.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A stream of choices fixed by a name.

    Attributes:
        nats: surprise of all choices so far, in nats.
    """

    def __init__(self, name: str) -> None:
        self._rng = random.Random(name)
        self.nats = 0.0

    def below(self, n: int) -> int:
        """A uniform integer of 0..n-1.

        Raises:
            ValueError: n is not positive.
        """
        if n < 1:
            raise ValueError(f"nothing to choose from: n = {n}")
        self.nats += math.log(n)
        return int(self._rng.random() * n)

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, each as likely as the others.

        Raises:
            ValueError: `items` is empty.
        """
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One of `items`, as likely as its weight says.

        Raises:
            ValueError: the lengths differ, a weight is not positive, or nothing is given.
        """
        if not items or len(items) != len(weights) or min(weights) <= 0:
            raise ValueError(f"{len(items)} items with weights {list(weights)}")
        total = math.fsum(weights)
        left = self._rng.random() * total
        at = 0
        while left >= weights[at] and at < len(weights) - 1:
            left -= weights[at]
            at += 1
        self.nats += math.log(total / weights[at])
        return items[at]

    def chance(self, p: float) -> bool:
        """True with probability p, which lies strictly between 0 and 1."""
        return self.weighted((True, False), (p, 1.0 - p))

    def sample(self, items: Sequence[T], n: int) -> list[T]:
        """n different ones of `items`, in random order.

        Raises:
            ValueError: there are fewer than n items.
        """
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(n)]
