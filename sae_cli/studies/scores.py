"""How well the values of single features tell labelled tokens from others: F1 and AUROC, exact.

For a feature with values v and a label with P tokens of N,

    F1(t) = 2 TP / (tokens with v > t + P),  TP = labelled tokens with v > t
    AUROC = (sum of midranks of labelled tokens - P (P + 1) / 2) / (P (N - P))

with t one of the values that v takes, so that no threshold calls every token labelled, and 0 a
threshold of a latent that fires at all. Midranks count ties half (Mann and Whitney 1947), so a
constant has AUROC 0.5, and F1 0. The best t has a labelled token as its least v > t: only those
are tried. Ranks are whole numbers and sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CELLS = 2**22
"""Values, tokens times features, that are ranked at a time."""
Columns = Callable[[int, int], Tensor]
"""`columns(start, stop)`: float32 `[stop - start, tokens]`, the values of some features."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """What each feature is worth for each label: float64 `[features, labels]`."""

    f1: Floats
    """With the threshold that is best for it on these tokens."""
    auroc: Floats


def table(
    columns: Columns, features: int, labels: Tensor, leave: Callable[[], None] = lambda: None
) -> Table:
    """Every feature against every label; `labels` bool `[tokens, labels]`, each true somewhere and
    false somewhere. `leave()` is called between chunks."""
    tokens, n = labels.shape
    f1, auroc = np.zeros((features, n)), np.full((features, n), 0.5)
    counts = labels.double().sum(0)
    where = [labels[:, each].nonzero()[:, 0] for each in range(n)]
    step = max(1, CELLS // max(tokens, 1))
    for start in range(0, features, step):
        stop = min(start + step, features)
        values = columns(start, stop)
        told = (values.amax(1) > values.amin(1)).nonzero()[:, 0]  # a constant tells nothing
        if len(told):
            at = start + told.cpu().numpy()
            f1[at], auroc[at] = _chunk(values[told].contiguous(), labels, counts, where)
        leave()
    return Table(f1, auroc)


def _chunk(
    values: Tensor, labels: Tensor, counts: Tensor, where: list[Tensor]
) -> tuple[Floats, Floats]:
    below, upto = _ranks(values)
    tokens = values.shape[1]
    whole = torch.float32 if tokens < 2**24 else torch.float64
    called = (tokens - below).to(whole)  # how many are at least as large
    called[called == tokens] = torch.inf  # no threshold is below all
    f1 = torch.zeros(len(values), len(where), dtype=torch.float64, device=values.device)
    for label, at in enumerate(where):
        mine = called[:, at].sort(1).values.double()
        true = torch.arange(1, len(at) + 1, dtype=torch.float64, device=values.device)
        f1[:, label] = 2 * (true / (mine + len(at))).amax(1)
    midranks = (below + upto + 1).double() / 2
    above = midranks @ labels.double() - counts * (counts + 1) / 2
    auroc = above / (counts * (tokens - counts))
    return f1.cpu().numpy(), auroc.cpu().numpy()


def _ranks(values: Tensor) -> tuple[Tensor, Tensor]:
    """int32 `[features, tokens]`: how many values are smaller, and how many are not larger."""
    ordered = values.sort(1).values
    return (
        torch.searchsorted(ordered, values, right=False, out_int32=True),
        torch.searchsorted(ordered, values, right=True, out_int32=True),
    )


def threshold(values: NDArray[np.float32], label: NDArray[np.bool_]) -> float:
    """The t with the best F1, the largest of several; all `[tokens]`. A constant gives itself."""
    order = np.sort(values)
    called = len(values) - np.searchsorted(order, values[label], side="left")
    mine = np.sort(called)
    found = 2 * np.arange(1, len(mine) + 1) / (mine + len(mine))
    found[mine == len(values)] = 0.0
    best = int(mine[found.argmax()])
    return float(order[max(len(values) - best - 1, 0)])


def f1_of(called: NDArray[np.bool_], label: NDArray[np.bool_]) -> float:
    """2 TP / (called + labelled) over tokens; 0 where nothing is either."""
    either = int(called.sum()) + int(label.sum())
    return 2 * int((called & label).sum()) / either if either else 0.0


def auroc_of(values: NDArray[np.float32], label: NDArray[np.bool_]) -> float:
    """Of one feature; there have to be tokens with the label and without."""
    mine, order = int(label.sum()), np.sort(values)
    below = np.searchsorted(order, values[label], side="left")
    upto = np.searchsorted(order, values[label], side="right")
    midranks = float((below + upto + 1).sum(dtype=np.float64)) / 2
    return (midranks - mine * (mine + 1) / 2) / (mine * (len(label) - mine))
