"""Streaming statistics: right to float64, and the same bits however they are computed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load

from sae_cli.store.acts.moments import Moments, Tally, row_layout, row_length
from sae_cli.store.acts.norms import BINS, QUANTILES, edges, norms_of

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
TOLERANCE = 1e-6


def data(n: int = 700, d: int = 37, ratio: float = 600.0) -> torch.Tensor:
    """Rows whose mean is up to `ratio` times their spread."""
    dice = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=dice) * 0.5 + torch.linspace(-ratio / 2, ratio / 2, d)


def in_chunks(x: torch.Tensor, size: int, keep: np.ndarray | None = None) -> Moments:
    moments = Moments.none(x.shape[1])
    for at in range(0, len(x), size):
        some = None if keep is None else keep[at : at + size]
        moments = moments.merged(Moments.of(x[at : at + size], some))
    return moments


def assert_right(moments: Moments, x: torch.Tensor) -> None:
    """Against numpy's long doubles over the rows that count."""
    reference = x.double().numpy().astype(np.longdouble)
    assert moments.count == len(x)
    spread = reference.std(0).astype(float)
    off = np.abs(moments.mean.numpy() - reference.mean(0).astype(float))
    assert (off <= TOLERANCE * spread).all()
    np.testing.assert_allclose(moments.var, reference.var(0).astype(float), rtol=TOLERANCE)
    total = ((reference - reference.mean(0)) ** 2).sum()
    assert moments.total_centred == pytest.approx(float(total), rel=TOLERANCE)
    norms = np.sqrt((reference**2).sum(1))
    assert moments.mean_norm == pytest.approx(float(norms.mean()), rel=TOLERANCE)
    assert int(moments.histogram.sum()) == len(x)


def same(a: Moments, b: Moments) -> bool:
    return a.to_row().tobytes() == b.to_row().tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("size", [1, 7, 128, 300, 700])
def test_chunked_moments_match_a_reference(size: int, dtype: torch.dtype) -> None:
    x = data().to(dtype)
    assert_right(in_chunks(x, size), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mean_of_a_thousand_spreads_cancels_no_digits(dtype: torch.dtype) -> None:
    x = data(5000, 64, ratio=1000.0).to(dtype)
    assert_right(Moments.of(x), x)
    assert_right(in_chunks(x, 819), x)


def test_rows_of_extreme_size_do_not_blur_the_others() -> None:
    x = data(2000, 32)
    x[::500] *= 1e4
    x[0, 5] = 3e7
    quiet = np.arange(2000) % 500 != 0
    assert_right(Moments.of(x), x)
    assert_right(Moments.of(x, quiet), x[torch.from_numpy(quiet)])


@pytest.mark.parametrize("junk", [float("inf"), float("nan"), 1e30])
@pytest.mark.parametrize("size", [50, 128, 333, 700])
def test_rows_that_do_not_count_may_hold_anything(junk: float, size: int) -> None:
    x = data()
    keep = np.random.default_rng(1).random(700) < 0.7
    keep[:130] = False
    kept = x[torch.from_numpy(keep)].clone()
    quiet = in_chunks(x, size, keep)
    x[torch.from_numpy(~keep)] = junk
    moments = in_chunks(x, size, keep)
    assert moments.finite
    assert_right(moments, kept)
    assert same(moments, quiet)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("n", "d"), [(301, 1024), (1000, 2561), (3000, 64), (2, 40_000)])
def test_threads_move_no_bit_and_a_device_only_the_last_ones(device: str, n: int, d: int) -> None:
    x = data(n, d).bfloat16()
    keep = np.random.default_rng(2).random(n) < 0.9
    keep[0] = True
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected, norms = Moments.of(x, keep), norms_of(x)
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            found = Moments.of(x.to(device), keep)
            assert torch.get_num_threads() == threads
            if device == "cpu":
                assert same(found, expected)
                assert torch.equal(norms_of(x), norms)
            spread = expected.var.sqrt()
            assert ((found.mean - expected.mean).abs() <= TOLERANCE * spread).all()
            torch.testing.assert_close(found.centred, expected.centred, rtol=TOLERANCE, atol=0)
            assert found.norms == pytest.approx(expected.norms, rel=TOLERANCE)
    finally:
        torch.set_num_threads(before)


def test_a_chunk_is_not_changed_and_its_dtype_does_not_limit_the_sums() -> None:
    x = torch.full((1000, 3), 60000.0, dtype=torch.float16)
    moments = Moments.of(x)
    assert (x == 60000.0).all()
    assert moments.mean.tolist() == [float(x[0, 0])] * 3
    assert moments.var.tolist() == [0.0] * 3


def test_numbers_whose_squares_overflow_float32_are_still_numbers() -> None:
    x = data(300, 5).bfloat16() * 1e30
    moments = Moments.of(x)
    assert moments.finite
    assert_right(moments, x)


def test_moments_of_nothing_change_nothing() -> None:
    some = Moments.of(data(5))
    for none in (Moments.of(data()[:0]), Moments.of(data(), np.zeros(700, np.bool_))):
        assert none.count == 0 and math.isnan(none.quantile(0.5))
        assert none.merged(some) is some and some.merged(none) is some


def test_norms_given_or_computed_are_the_same() -> None:
    x = data(500, 70).bfloat16()
    norms = norms_of(x)
    assert norms.dtype == torch.float32
    assert torch.equal(norms, torch.linalg.vector_norm(x.float(), dim=-1))
    assert same(Moments.of(x, norms=norms), Moments.of(x))
    assert Moments.of(x, norms=norms * 2).norms == 2 * Moments.of(x).norms


def test_a_tally_of_pieces_is_as_right_as_one_piece_and_says_when_they_are_not_numbers() -> None:
    x, keep = data(900) + 300, np.arange(900) % 5 > 0
    tally = Tally(x.shape[1])
    for at in range(0, 900, 130):
        assert tally.add(x[at : at + 130], keep[at : at + 130])
    found = tally.moments(error=2.0)
    assert_right(found, x[torch.from_numpy(keep)])
    assert (found.count, found.error) == (720, 2.0)
    assert torch.equal(found.histogram, Moments.of(x, keep).histogram)

    broken = x[:10].clone()
    broken[4, 2] = math.nan
    assert tally.add(broken, np.arange(10) != 4)
    assert not tally.add(broken)
    assert not tally.moments().finite


def test_whatever_the_order_of_merging_integers_agree_exactly_and_sums_to_rounding() -> None:
    a, b, c = (Moments.of(data(900)[at : at + 300], error=0.5) for at in (0, 300, 600))
    for other in (a.merged(b.merged(c)), c.merged(a).merged(b), b.merged(a).merged(c)):
        one = a.merged(b).merged(c)
        assert one.count == other.count == 900
        assert torch.equal(one.histogram, other.histogram)
        assert one.error == other.error == 1.5
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one.centred, other.centred, rtol=1e-12, atol=0)
        assert one.norms == pytest.approx(other.norms, rel=1e-13)
    assert torch.equal(one.histogram, Moments.of(data(900)).histogram)


@pytest.mark.parametrize("size", [33, 1000])
def test_quantiles_of_norms_are_within_their_bound(size: int) -> None:
    dice = np.random.default_rng(3)
    x = torch.from_numpy(dice.standard_normal((1000, 4)) * np.exp(dice.uniform(-9, 9, (1000, 1))))
    moments = in_chunks(x, size)
    norms = np.linalg.norm(x.numpy(), axis=1)
    for q in (0.0, *QUANTILES, 1.0):
        exact = float(np.quantile(norms, q, method="inverted_cdf"))
        assert abs(moments.quantile(q) / exact - 1) < 0.011


def test_norms_beyond_the_bins_are_counted_at_their_ends() -> None:
    x = torch.tensor([[0.0], [2.0**-17], [1.0], [2.0**24], [1e20]])
    moments = Moments.of(x)
    assert (int(moments.histogram[0]), int(moments.histogram[-1])) == (2, 2)
    assert [moments.quantile(q) for q in (0.0, 0.4, 0.9)] == [0.0, 0.0, math.inf]
    assert moments.quantile(0.6) == pytest.approx(1.0, rel=0.011)


def test_bins_are_where_they_always_were() -> None:
    assert BINS == 1282 and len(edges()) == BINS - 1
    assert edges()[[0, 16 * 32, 17 * 32, -1]].tolist() == [2.0**-16, 1.0, 2.0, 2.0**24]
    found = Moments.of(torch.tensor([[2.0**-16], [1.0], [3.0]])).histogram.nonzero()
    assert found.flatten().tolist() == [1, 1 + 16 * 32, 1 + 17 * 32 + 18]


def test_loss_is_the_share_of_variance_that_the_encoding_cost() -> None:
    x = data()
    moments = Moments.of(x, error=3.0).merged(Moments.of(x + 5, error=1.0))
    assert moments.error == 4.0
    assert moments.loss == 4.0 / moments.total_centred
    still = torch.ones(3, 2)
    assert (Moments.of(still).loss, Moments.of(still, error=1.0).loss) == (0.0, math.inf)


def test_moments_survive_the_disk_bit_for_bit() -> None:
    moments = dataclasses.replace(in_chunks(data(), 64), error=0.1)
    for again in (
        Moments.from_bytes(moments.to_bytes()),
        Moments.from_row(moments.to_row(), 37),
    ):
        assert torch.equal(again.mean, moments.mean)
        assert torch.equal(again.centred, moments.centred)
        assert torch.equal(again.histogram, moments.histogram)
        assert again.histogram.dtype == torch.int64
        assert (again.count, again.norms, again.error) == (700, moments.norms, 0.1)
        assert again.to_bytes() == moments.to_bytes()


def test_the_file_says_what_a_person_wants_to_know() -> None:
    moments = Moments.of(data(), error=2.0)
    tensors = load(moments.to_bytes())
    assert torch.equal(tensors["var"], moments.var)
    assert tensors["mean_norm"].tolist() == [moments.mean_norm]
    assert tensors["error"].tolist() == [2.0]
    assert tensors["norm_quantiles"].tolist() == [moments.quantile(q) for q in QUANTILES]


def test_a_row_is_laid_out_as_declared() -> None:
    moments = Moments.of(data(9, 5), error=2.5)
    row, layout = moments.to_row(), row_layout(5)
    assert row.dtype == np.float64 and row.shape == (row_length(5),) == (3 + BINS + 10,)
    assert list(layout) == ["count", "norms", "error", "norm_histogram", "mean", "centred"]
    assert layout["centred"].stop == row_length(5)
    assert row[layout["mean"]].tolist() == moments.mean.tolist()
    assert row[:3].tolist() == [9.0, moments.norms, 2.5]


def test_moments_read_from_a_row_do_not_hold_on_to_it() -> None:
    row = Moments.of(data(9, 5)).to_row()
    moments = Moments.from_row(row, 5)
    row[:] = 0
    assert same(moments, Moments.of(data(9, 5)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("row", [0, 650])
def test_one_bad_number_is_noticed(bad: float, row: int) -> None:
    x = data()
    x[row, 30] = bad
    assert in_chunks(data(), 64).finite
    assert not in_chunks(x, 64).finite
    assert not Moments.of(x).finite
