"""Which texts of a data set probes are trained on, and which they are tested on.

The order of texts is that of a hash of their contents, so the choice is the same wherever a data
set is read, in whatever order. Texts that are the same to the model, as far as it reads them, are
taken once: none stands on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_cli.spec.studies import ProbingStudy
from sae_cli.studies.probe.pool import Ids
from sae_cli.studies.probe.scores import Bools
from sae_cli.studies.probe.texts import Labelled

FEWEST_TRAIN, FEWEST_TEST = 10, 5
"""Texts of either label, below which nothing is fitted, or nothing said."""


@dataclass(frozen=True)
class Parts:
    """Texts by their numbers in the data set."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    repeated: int
    """Texts that are left out because another one is the same."""
    empty: int
    """Texts without a token."""


def parts(data: Labelled, ids: Sequence[Ids], spec: ProbingStudy) -> Parts:
    """Test texts are the first of the order, at most `spec.test_texts`, training texts those
    after them; of either label half as many if `spec.balanced`."""
    seen: set[bytes] = set()
    chosen: list[int] = []
    empty = 0
    for i in sorted(range(len(ids)), key=lambda i: _rank(spec.seed, data.texts[i])):
        if not len(ids[i]):
            empty += 1
        elif (said := ids[i].tobytes()) not in seen:
            seen.add(said)
            chosen.append(i)
    kinds = [chosen]
    if spec.balanced:
        kinds = [[i for i in chosen if data.positive[i] is kind] for kind in (True, False)]
    there = min(map(len, kinds))
    share = len(kinds)
    n_test = min(
        spec.test_texts // share,
        there * spec.test_texts // (spec.train_texts + spec.test_texts),
    )
    n_train = min(spec.train_texts // share, there - n_test)
    test = tuple(i for kind in kinds for i in kind[:n_test])
    train = tuple(i for kind in kinds for i in kind[n_test : n_test + n_train])
    return Parts(train, test, len(ids) - empty - len(chosen), empty)


def _rank(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed} {text}".encode()).digest()


def lacking(train: Bools, test: Bools, folds: int) -> str | None:
    """Why these labels are too few to train on or to test with; None if they are not."""
    for named, truth, fewest in (
        ("training", train, max(FEWEST_TRAIN, folds)),
        ("test", test, FEWEST_TEST),
    ):
        least = min(int(truth.sum()), int((~truth).sum()))
        if least < fewest:
            return f"{least} {named} texts of the rarer label, fewer than {fewest}"
    return None


def digest(data: Labelled, rows: Sequence[int]) -> str:
    """sha256 over texts and labels, in their order."""
    whole = hashlib.sha256()
    for i in rows:
        whole.update(np.int64(len(text := data.texts[i].encode())).tobytes())
        whole.update(text + bytes([data.positive[i]]))
    return whole.hexdigest()
