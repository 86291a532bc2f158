"""The n-th largest of a stream is that of a sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_cli.sae.nth_largest import nth_largest

_FLOATS = st.floats(-(2.0**100), 2.0**120, width=32)


@given(
    parts=st.lists(st.lists(_FLOATS, max_size=20), min_size=1, max_size=5),
    ranks=st.lists(st.integers(1, 30), min_size=1, max_size=3),
)
def test_it_is_that_of_a_sort(parts: list[list[float]], ranks: list[int]) -> None:
    tensors = [torch.tensor(part, dtype=torch.float32) for part in parts]
    positive = sorted((v for t in tensors for v in t.tolist() if v > 0), reverse=True)
    wanted = [positive[n - 1] if len(positive) >= n else 0.0 for n in ranks]
    assert nth_largest(lambda: tensors, ranks) == wanted


@pytest.mark.parametrize("n", [1, 2, 999, 50_000, 99_999, 100_000])
def test_close_values_are_told_apart(n: int) -> None:
    values = 1.0 + torch.arange(100_000) * 2.0**-23
    shuffled = values[torch.randperm(100_000, generator=torch.Generator().manual_seed(0))]
    parts = [p.view(-1, 10) for p in shuffled.split(30_000)]
    assert nth_largest(lambda: parts, [n]) == [float(values[-n])]


def test_ties_count_each() -> None:
    assert nth_largest(lambda: [torch.tensor([3.0, 1.0, 3.0, 2.0])], [2, 3]) == [3.0, 2.0]
