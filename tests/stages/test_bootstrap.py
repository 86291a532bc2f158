"""Intervals over documents: right resamples, known coverage, and null where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_cli.stages.bootstrap import (
    FEWEST,
    LEVEL,
    RESAMPLES,
    UNITS,
    Segments,
    UnitSums,
    draws,
    interval,
)
from sae_cli.stages.losses import LossMeter, splice_intervals, splice_metrics
from sae_cli.stages.metrics import NO_SUM, CentredSums, ReconstructionMeter

D_IN, D_SAE, DOCS = 6, 20, 15


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _summed(values: Tensor, documents: Tensor, total: int) -> UnitSums:
    sums = UnitSums(total, values.shape[1])
    for part, which in zip(values.split(7), documents.split(7), strict=True):
        sums.add(part, Segments(which))
    return sums


def test_a_resample_draws_documents_with_replacement() -> None:
    drawn = draws(DOCS)
    assert drawn.shape == (RESAMPLES, DOCS) and torch.equal(drawn, drawn.round())
    assert (drawn.sum(1) == DOCS).all() and (drawn == 0).any() and (drawn > 1).any()
    share = drawn.mean(0)
    assert (share - 1).abs().max() < 5 * math.sqrt((1 - 1 / DOCS) / RESAMPLES)
    assert torch.equal(drawn, draws.__wrapped__(DOCS)), "the same whenever it is drawn"


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    """400 experiments of 60 documents; a percentile interval of so few is a little narrow."""
    experiments, docs, truth = 400, 60, 3.0
    values = truth + _random(experiments, docs, seed=3).double()
    covered = 0
    for each in values:
        one = torch.ones(docs, dtype=torch.float64)
        t = _summed(torch.stack([each, one], 1), torch.arange(docs), docs).resampled()
        assert t is not None
        found = interval(t[:, 0] / t[:, 1], docs)
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    deviation = math.sqrt(LEVEL * (1 - LEVEL) / experiments)
    assert abs(covered / experiments - LEVEL) < 3 * deviation + 0.015


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    """Long documents count for more, and tokens of one document don't count as independent."""
    docs, tokens = 200, 5
    of = torch.arange(docs).repeat_interleave(tokens)
    values = _random(docs, seed=4).double()[of]
    t = _summed(torch.stack([values, torch.ones_like(values)], 1), of, docs).resampled()
    assert t is not None
    found = interval(t[:, 0] / t[:, 1], docs)
    assert found.low is not None and found.high is not None
    wide = 2 * 1.959964 * float(values[::tokens].std(correction=0)) / math.sqrt(docs)
    assert found.high - found.low == pytest.approx(wide, rel=0.1)


def _activations() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n = 240
    x = 3 * _random(n, D_IN, seed=0) + 2
    x[:2] = 0.0
    x_hat = 0.9 * x + 0.3 * _random(n, D_IN, seed=1)
    f = (_random(n, D_SAE, seed=2) - 1).relu()
    documents = torch.randint(DOCS, (n,), generator=torch.Generator().manual_seed(5))
    return x, x_hat, f, torch.full((D_IN,), 1.9), documents


def _by_hand(x: np.ndarray, y: np.ndarray, f: np.ndarray, m: np.ndarray) -> dict[str, float]:
    error, length = ((x - y) ** 2).sum(1), np.linalg.norm(x, axis=1)
    there = length > 0
    fvu = error.sum() / ((x - x.mean(0)) ** 2).sum()
    cosine = np.zeros(len(x))
    cosine[there] = (x * y).sum(1)[there] / length[there] / np.linalg.norm(y, axis=1)[there]
    return {
        "fvu.pooled_v1": fvu,
        "ev.pooled_v1": 1 - fvu,
        "ev.per_token_v1": np.mean(1 - error / ((x - m) ** 2).sum(1)),
        "mse_v1": error.mean(),
        "cosine_v1": cosine.mean(),
        "l0_v1": (f != 0).sum(1).mean(),
        "l1_v1": np.abs(f).sum(1).mean(),
        "shrinkage_v1": (y**2).sum() / (x * y).sum(),
        "norm_ratio_v1": np.mean(np.linalg.norm(y, axis=1)[there] / length[there]),
        "norm_in_v1": length.mean(),
        "norm_out_v1": np.linalg.norm(y, axis=1).mean(),
    }


def test_intervals_of_reconstruction_equal_resampled_tokens_by_hand() -> None:
    x, x_hat, f, mean, documents = _activations()
    meter, centred = ReconstructionMeter(D_IN, D_SAE, mean, DOCS), CentredSums(mean, DOCS)
    for at in range(0, len(x), 50):
        part = slice(at, at + 50)
        segments = Segments(documents[part])
        meter.update(x[part], x_hat[part], f[part], segments)
        centred.add(x[part], segments)
    a, b, z, m = (t.double().numpy() for t in (x, x_hat, f, mean))
    rows = [np.flatnonzero(documents.numpy() == d) for d in range(DOCS)]
    found = []
    for drawn in draws(DOCS).long().tolist():
        at = np.concatenate([rows[d] for d, times in enumerate(drawn) for _ in range(times)])
        found.append(_by_hand(a[at], b[at], z[at], m))
    got = meter.intervals(centred)
    assert got.keys() == meter.result().keys()
    for name in found[0]:
        low, high = np.quantile([each[name] for each in found], [0.025, 0.975])
        assert got[name].low == pytest.approx(low, rel=1e-9), name
        assert got[name].high == pytest.approx(high, rel=1e-9), name
        value = meter.result()[name].value
        assert value is not None and low < value < high and got[name].n_docs == DOCS
    for name in got.keys() - found[0].keys():
        assert (got[name].low, got[name].reason) == (None, NO_SUM)


def test_two_meters_together_are_one_that_saw_all() -> None:
    x, x_hat, f, mean, documents = _activations()
    loud = x.norm(dim=1) > 10
    whole, parts = [], []
    for out, chosen in ((whole, [loud | True]), (parts, [loud, ~loud])):
        for some in chosen:
            meter, centred = ReconstructionMeter(D_IN, D_SAE, mean, DOCS), CentredSums(mean, DOCS)
            segments = Segments(documents[some])
            meter.update(x[some], x_hat[some], f[some], segments)
            centred.add(x[some], segments)
            out.append((meter, centred))
    both, sums = parts[0][0].plus(parts[1][0]), parts[0][1].plus(parts[1][1])
    for name, metric in whole[0][0].result().items():
        assert both.result()[name].value == pytest.approx(metric.value, rel=1e-12), name
    for name, wanted in whole[0][0].intervals(whole[0][1]).items():
        got = both.intervals(sums)[name]
        assert (got.n_docs, got.reason) == (wanted.n_docs, wanted.reason)
        if wanted.reason is None:
            assert (got.low, got.high) == pytest.approx((wanted.low, wanted.high), rel=1e-9), name


def _loss_meters(docs: int) -> list[LossMeter]:
    tokens = torch.randint(9, (docs, 12), generator=torch.Generator().manual_seed(0))
    keep = torch.ones_like(tokens, dtype=torch.bool)
    clean = torch.nn.functional.one_hot(tokens.roll(-1, 1), 9) * 4.0 + _random(docs, 12, 9, seed=1)
    documents = torch.arange(docs)[:, None].expand_as(tokens)
    made = []
    for i, scale in enumerate((0.5, 4.0, 3.0)):
        meter = LossMeter(docs)
        meter.update(
            clean, clean + scale * _random(docs, 12, 9, seed=2 + i), tokens, keep, documents
        )
        made.append(meter)
    return made


def test_intervals_of_losses_resample_both_sums_of_a_ratio_together() -> None:
    meters = _loss_meters(30)
    got, point = splice_intervals(*meters), splice_metrics(*meters)
    assert got.keys() == point.keys()
    for name, each in got.items():
        value = point[name].value
        assert value is not None and each.low is not None and each.high is not None
        assert each.low < value < each.high and each.n_docs == 30, name
    perfect = splice_intervals(meters[1], meters[1], meters[2])["ce_recovered.zero_v1"]
    assert (perfect.low, perfect.high) == (0.0, 0.0), "the same draws above and below"


def test_few_documents_have_no_interval() -> None:
    for docs in (1, FEWEST - 1, FEWEST):
        for name, each in splice_intervals(*_loss_meters(docs)).items():
            enough = docs >= FEWEST
            assert (each.low is not None) == enough, name
            assert each.reason == (None if enough else f"{docs} documents, fewer than {FEWEST}")


def test_what_has_no_value_has_no_interval_and_the_same_reason() -> None:
    mean = torch.zeros(D_IN)
    meter, centred = ReconstructionMeter(D_IN, D_SAE, mean, 10), CentredSums(mean, 10)
    meter.update(torch.zeros(0, D_IN), torch.zeros(0, D_IN), torch.zeros(0, D_SAE))
    for each in meter.intervals(centred).values():
        assert (each.low, each.n_docs, each.reason) == (None, 0, "no token was kept")
    values = torch.ones(RESAMPLES, dtype=torch.float64)
    values[:3] = torch.inf
    assert interval(values, 20).reason == f"3 of {RESAMPLES} resamples have no value"


def test_documents_without_a_token_that_counts_are_not_drawn() -> None:
    values, of = torch.ones(10, 1), torch.arange(0, 100, 10)
    sums = _summed(values, of, 1000)
    assert sums.n_docs == 10
    resampled = sums.resampled()
    assert resampled is not None and (resampled == 10).all()


def test_many_documents_are_drawn_in_units_of_whole_ones() -> None:
    docs = 3 * UNITS
    sums = _summed(torch.ones(docs, 1), torch.arange(docs), docs)
    assert sums.n_docs == docs
    resampled = sums.resampled()
    assert resampled is not None and (resampled == docs).all()
