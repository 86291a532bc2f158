"""What counting words alone achieves, in nats: the numbers that a real model has to beat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise


def unigram_ce(train: Sequence[int], held_out: Sequence[int], vocab_size: int) -> float:
    """Mean cross-entropy in nats per token of add-one unigram frequencies.

    Args:
        train: token ids to count.
        held_out: token ids to score.
        vocab_size: number of token ids.
    """
    counts = Counter(train)
    total = len(train) + vocab_size
    return math.fsum(-math.log((counts[t] + 1) / total) for t in held_out) / len(held_out)


def bigram_ce(train: Sequence[int], held_out: Sequence[int], vocab_size: int) -> float:
    """Mean cross-entropy in nats per token of a bigram model that backs off to unigrams.

    p(b | a) = (count(a b) + p(b)) / (count(a) + 1), with p(b) the add-one unigram frequency; the
    first held-out token is not scored. Arguments as for `unigram_ce`.
    """
    counts, before = Counter(train), Counter(train[:-1])
    pairs = Counter(pairwise(train))
    total = len(train) + vocab_size
    nats = (
        -math.log((pairs[a, b] + (counts[b] + 1) / total) / (before[a] + 1))
        for a, b in pairwise(held_out)
    )
    return math.fsum(nats) / (len(held_out) - 1)
