"""What the kernels select: the k largest of a row, and of a batch.

Each is compared with a stable sort in float64, where no two numbers become equal that were not.
"""

from __future__ import annotations

import pytest
import torch
from interpreted import DEVICE, fused
from torch import Tensor

from sae_cli.sae.kernels import plain
from sae_cli.sae.kernels.lists import Kept

FORMATS = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(3, 200, 1), (3, 200, 17), (2, 200, 200), (2, 5000, 31), (1, 1, 1), (0, 200, 3)]


def draw(kind: str, rows: int, width: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(rows * width)
    normal = torch.randn(rows, width, generator=generator)
    powers = torch.randint(-14, 15, (rows, width), generator=generator)
    made = {
        "normal": normal,
        "ties": (3 * normal).round(),
        "equal": torch.full((rows, width), 2.5),
        "none positive": -normal.abs().round(),
        "few positive": normal - 2.0,
        "far apart": normal * 2.0**powers,
        "large": (normal.abs() + 200.0) * 2.0 ** (powers % 4),
        "tiny": normal.abs() * 2.0**-17,
        "few and tiny": (normal - 1.5) * 2.0**-17,
    }[kind]
    return made.to(device=DEVICE, dtype=dtype)


KINDS = [
    *("normal", "ties", "equal", "none positive", "few positive"),
    *("far apart", "large", "tiny", "few and tiny"),
]


def largest(pre: Tensor, k: int) -> Tensor:
    """Which k entries of each row are largest, the lower of equal ones, positive ones only."""
    exact = pre.double().clamp_min(0.0)
    order = exact.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(exact, dtype=torch.bool).scatter_(1, order, True) & (exact > 0)


def same_rows(pre: Tensor, k: int, values: Tensor, indices: Tensor) -> None:
    k = min(k, pre.shape[1])
    assert values.shape == indices.shape == (pre.shape[0], k) and values.dtype == pre.dtype
    assert (
        (indices.diff(dim=1) > 0).all() and (indices >= 0).all() and (indices < pre.shape[1]).all()
    )
    got = torch.zeros_like(pre).scatter_(1, indices, values)
    assert torch.equal(got, torch.where(largest(pre, k), pre, 0.0))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_keep_their_k_largest(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, width, k = shape
    pre = draw("normal", rows, width, dtype)
    same_rows(pre, k, *fused.top_k(pre, k))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_rows_keep_their_k_largest_whatever_the_numbers_are(kind: str, dtype: torch.dtype) -> None:
    pre = draw(kind, 3, 200, dtype)
    same_rows(pre, 23, *fused.top_k(pre, 23))


def test_equal_values_far_from_each_other_are_told_apart_by_their_places() -> None:
    pre = torch.zeros(2, 9000, device=DEVICE)
    pre[:, ::300] = 1.0
    pre[1, 8999] = 2.0
    same_rows(pre, 17, *fused.top_k(pre, 17))
    same_batch(pre, 22, fused.batch_top_k(pre, 22))


def test_rows_are_selected_as_plain_torch_selects_them() -> None:
    pre = draw("ties", 5, 200, torch.float32)
    ours, theirs = fused.top_k(pre, 9), plain.top_k(pre, 9)
    dense = [torch.zeros_like(pre).scatter_(1, i, v) for v, i in (ours, theirs)]
    assert torch.equal(*dense)


def test_a_k_beyond_the_width_keeps_every_positive_value() -> None:
    pre = draw("normal", 2, 10, torch.float32)
    same_rows(pre, 50, *fused.top_k(pre, 50))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_what_is_not_a_number_is_kept_and_seen(dtype: torch.dtype) -> None:
    pre = draw("normal", 2, 200, dtype)
    pre[0, 77] = float("nan")
    pre[0, 3] = float("inf")
    values, indices = fused.top_k(pre, 2)
    assert indices[0].tolist() == [3, 77] and values[0].isnan().tolist() == [False, True]
    assert not values[1].isnan().any()
    kept = fused.batch_top_k(pre, 1)
    assert kept.latents.tolist() == [3, 77] and kept.values.isnan().tolist() == [False, True]


def same_batch(pre: Tensor, k: int, kept: Kept) -> None:
    rows, width = pre.shape
    chosen = largest(pre.flatten()[None], rows * k).view(rows, width)
    places, latents = chosen.nonzero(as_tuple=True)
    n, room = len(places), rows * min(k, width)
    ends = torch.nn.functional.pad(chosen.sum(1).cumsum(0), (1, 0))
    assert torch.equal(kept.row_ends, ends)
    for got, want, padding in (
        (kept.values, pre[chosen], 0.0),
        (kept.latents, latents, width),
        (kept.rows, places, rows),
    ):
        assert torch.equal(got[:n], want) and torch.equal(
            got[n:], want.new_full((room - n,), padding)
        )


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_batch_keeps_its_largest(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, width, k = shape
    pre = draw("normal", rows, width, dtype)
    same_batch(pre, k, fused.batch_top_k(pre, k))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_batch_keeps_its_largest_whatever_the_numbers_are(kind: str, dtype: torch.dtype) -> None:
    pre = draw(kind, 3, 200, dtype)
    same_batch(pre, 23, fused.batch_top_k(pre, 23))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_selected_as_plain_torch_selects_it(kind: str) -> None:
    pre = draw(kind, 3, 200, torch.float32)
    for ours, theirs in zip(fused.batch_top_k(pre, 4), plain.batch_top_k(pre, 4), strict=True):
        assert torch.equal(ours, theirs)


def test_of_a_batchs_equal_values_the_first_in_row_major_order_are_kept() -> None:
    pre = torch.full((3, 50), 1.0, device=DEVICE)
    pre[2, 49] = 2.0
    kept = fused.batch_top_k(pre, 20)
    assert kept.row_ends.tolist() == [0, 50, 59, 60]
    assert kept.latents.tolist() == [*range(50), *range(9), 49]
