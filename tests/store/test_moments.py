"""Streaming statistics: right to float64, and the same bits however they are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_cli.store.moments import Moments

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def data(n: int = 700, d: int = 37) -> torch.Tensor:
    """Rows with a mean far larger than their spread in some dimensions."""
    dice = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=dice) * 0.5 + torch.linspace(-300, 300, d)


def in_chunks(x: torch.Tensor, size: int) -> Moments:
    moments = Moments.none(x.shape[1])
    for part in x.split(size):
        moments = moments.merged(Moments.of(part))
    return moments


@pytest.mark.parametrize("size", [1, 7, 64, 700])
def test_chunked_moments_match_a_float64_reference(size: int) -> None:
    x = data()
    reference = x.numpy().astype(np.longdouble)
    moments = in_chunks(x, size)
    assert moments.count == 700
    np.testing.assert_allclose(moments.mean, reference.mean(0).astype(float), rtol=1e-12)
    np.testing.assert_allclose(moments.var, reference.var(0).astype(float), rtol=1e-10)
    total = ((reference - reference.mean(0)) ** 2).sum()
    assert moments.total_centred == pytest.approx(float(total), rel=1e-11)
    norm = np.sqrt((reference**2).sum(1)).mean()
    assert moments.mean_norm == pytest.approx(float(norm), rel=1e-13)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threads", [1, 2])
def test_neither_threads_nor_device_move_a_bit(device: str, threads: int) -> None:
    x = data(301, 1024)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = Moments.of(x).to_bytes()
        torch.set_num_threads(threads)
        assert Moments.of(x.to(device)).to_bytes() == expected
    finally:
        torch.set_num_threads(before)


def test_a_chunk_is_not_changed_and_its_dtype_does_not_limit_the_sums() -> None:
    x = torch.full((1000, 3), 60000.0, dtype=torch.float16)
    moments = Moments.of(x)
    assert (x == 60000.0).all()
    assert moments.mean.tolist() == [float(x[0, 0])] * 3
    assert moments.var.tolist() == [0.0] * 3


def test_moments_of_nothing_change_nothing() -> None:
    some, none = Moments.of(data(5)), Moments.of(data()[:0])
    assert none.merged(some) == some and some.merged(none) == some


def test_moments_survive_the_disk_bit_for_bit() -> None:
    moments = in_chunks(data(), 64)
    again = Moments.from_bytes(moments.to_bytes())
    assert torch.equal(again.mean, moments.mean) and torch.equal(again.centred, moments.centred)
    assert (again.count, again.norms) == (moments.count, moments.norms)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_number_is_noticed(bad: float) -> None:
    x = data()
    x[650, 30] = bad
    assert in_chunks(data(), 64).finite
    assert not in_chunks(x, 64).finite
