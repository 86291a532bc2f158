"""Which latents TopK keeps."""

from __future__ import annotations

import math

import pytest
import torch

from sae_cli.sae.product import chunk_rows
from sae_cli.sae.selection import encode_top_k, top_k


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


@pytest.mark.parametrize("width", [512, 1000, 1032, 4096])
def test_in_wide_rows_too_value_and_then_index_decide(width: int) -> None:
    """Wide rows are cut in two stages; whole numbers tie often, within and across blocks."""
    generator = torch.Generator().manual_seed(0)
    pre = torch.randint(-9, 7, (300, width), generator=generator).float()
    pre[:100, : width // 2] = 0.0
    values, indices = top_k(pre, 3)
    wanted = pre.clamp_min(0.0).sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, wanted.values[:, :3])
    assert torch.equal(indices, wanted.indices[:, :3])


def test_a_number_that_is_none_is_not_lost() -> None:
    for nan in (math.nan, -math.nan):
        values, _ = top_k(torch.tensor([[1.0, nan, 2.0, 3.0]]), 2)
        assert values.isnan().any()


@pytest.mark.parametrize("rows", [1, 300])
def test_encoding_some_rows_at_a_time_keeps_what_the_whole_product_keeps(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(-4, 5, (rows, 16), generator=generator).float()
    enc = torch.randint(-4, 5, (8192, 16), generator=generator).float()
    bias = torch.randint(-4, 5, (8192,), generator=generator).float()
    assert chunk_rows(8192, 4, z.device) < 300
    chosen = encode_top_k(z, enc, bias, 5)
    values, indices = top_k(z @ enc.T + bias, 5)
    assert torch.equal(chosen.values, values) and torch.equal(chosen.indices, indices)
