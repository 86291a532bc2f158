"""The batch's largest pre-activations: exact, whatever is guessed, however ties fall."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_cli.sae import batch_cut
from sae_cli.sae.batch_cut import Kept, batch_top_k
from sae_cli.sae.product import CHUNK_BYTES


def _kept(pre: Tensor, count: int, guess: float = 0.0) -> Kept:
    """What is kept of these pre-activations: the encoder is the identity."""
    width = pre.shape[1]
    return batch_top_k(pre, torch.eye(width), torch.zeros(width), count, guess)


def _wanted(pre: Tensor, count: int) -> list[tuple[int, int, float]]:
    order = pre.flatten().argsort(descending=True, stable=True)[:count].sort().values
    return [
        (int(i) // pre.shape[1], int(i) % pre.shape[1], float(pre.flatten()[i]))
        for i in order
        if pre.flatten()[i] > 0
    ]


def _said(kept: Kept) -> list[tuple[int, int, float]]:
    return list(zip(kept.rows.tolist(), kept.latents.tolist(), kept.values.tolist(), strict=True))


@given(
    rows=st.integers(1, 9),
    width=st.sampled_from([8, 24, 64, 128]),
    levels=st.integers(1, 6),
    share=st.floats(0.0, 1.0),
    guess=st.sampled_from([0.0, 0.1, 1.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_it_is_a_stable_sort_of_all_whatever_is_guessed(
    rows: int, width: int, levels: int, share: float, guess: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randint(-levels, levels + 1, (rows, width), generator=generator) / 2
    count = round(share * rows * width)
    kept = _kept(pre, count, guess)
    assert _said(kept) == _wanted(pre, count)
    positive = int((pre > 0).sum())
    assert float(kept.cut) == (float(kept.values.min()) if 0 < count <= positive else 0.0)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_chunks_of_any_size_keep_the_same(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pre = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(batch_cut, "chunk_rows", lambda *_: rows)
    assert _said(_kept(pre, 200)) == _wanted(pre, 200)


def test_no_rows_keep_nothing() -> None:
    assert _said(_kept(torch.zeros(0, 8), 0)) == []


def test_no_product_larger_than_a_chunk_is_made() -> None:
    z, enc = torch.zeros(4096, 8), torch.zeros(8192, 8)
    sizes = {pre.numel() * 4 for pre in batch_cut.products(z, enc, torch.zeros(8192))}
    assert max(sizes) <= CHUNK_BYTES["cpu"] < 4096 * 8192 * 4
