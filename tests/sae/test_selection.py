"""Which latents TopK keeps."""

from __future__ import annotations

import torch

from sae_cli.sae.selection import top_k


def test_it_keeps_the_k_largest_of_each_row() -> None:
    pre = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    values, indices = top_k(pre, 5)
    for row, kept, places in zip(pre, values, indices, strict=True):
        assert sorted(kept.tolist()) == sorted(row.clamp_min(0).tolist())[-5:]
        assert torch.equal(row[places].clamp_min(0), kept)


def test_of_equal_values_at_the_cut_the_lower_index_wins() -> None:
    pre = torch.full((3, 64), 1.0)
    pre[1, 40] = 2.0
    pre[2, ::2] = 0.5
    _, indices = top_k(pre, 4)
    assert sorted(indices[0].tolist()) == [0, 1, 2, 3]
    assert sorted(indices[1].tolist()) == [0, 1, 2, 40]
    assert sorted(indices[2].tolist()) == [1, 3, 5, 7]


def test_a_row_is_cut_the_same_way_whatever_its_neighbours_are() -> None:
    pre = torch.randint(-3, 4, (200, 32), generator=torch.Generator().manual_seed(1)).float()
    values, indices = top_k(pre, 6)
    together = torch.zeros_like(pre).scatter_(1, indices, values)
    alone = torch.cat(
        [torch.zeros(1, 32).scatter_(1, i, v) for v, i in (top_k(row[None], 6) for row in pre)]
    )
    assert torch.equal(together, alone)


def test_negative_values_are_never_active() -> None:
    values, _ = top_k(torch.tensor([[-1.0, -2.0, 3.0, -4.0]]), 3)
    assert sorted(values[0].tolist()) == [0.0, 0.0, 3.0]


def test_k_as_large_as_the_width_keeps_every_positive_value() -> None:
    pre = torch.tensor([[1.0, -1.0, 2.0]])
    values, indices = top_k(pre, 3)
    assert torch.equal(torch.zeros(1, 3).scatter_(1, indices, values), pre.relu())
