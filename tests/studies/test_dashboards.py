"""The one pass over a text finds what a straightforward look at every feature finds, exactly."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sae_cli.lm.capture import Capture
from sae_cli.sae.base import SAE
from sae_cli.store.dashboards import NONE
from sae_cli.studies.bench import Bench
from sae_cli.studies.dashboards import best
from sae_cli.studies.dashboards.build import fired, groups
from sae_cli.studies.dashboards.collect import EDGES, Collector, Sizes, pool
from sae_cli.studies.explain.windows import hashed

SIZES = Sizes(window=6, top=4, groups=3, each=2, idle=2, pool=9, seed=5)


def made_up(seed: int, blocks: int, context: int, features: int) -> tuple[Any, Any]:
    """Activations [blocks, C, features] of few different strengths, so that peaks are often equal,
    and the tokens that count. Feature 0 never fires, feature 1 nearly always does."""
    dice = np.random.default_rng(seed)
    dense = dice.integers(1, 5, (blocks, context, features)).astype(np.float32) / 4
    rare = dice.random((1, 1, features)) ** 3
    rare[..., 0], rare[..., 1] = 0.0, 0.95
    dense *= dice.random(dense.shape) < rare
    return dense, dice.random((blocks, context)) < 0.9


def collected(dense: Any, keep: Any, batches: list[int], sizes: Sizes = SIZES) -> Collector:
    """What a pass in batches of so many blocks collects."""
    per = -(-dense.shape[1] // sizes.window)
    found = Collector(dense.shape[2], len(dense) * per, sizes)
    start = 0
    for n in batches:
        part = dense[start : start + n] * keep[start : start + n, :, None]
        rows = part.reshape(-1, dense.shape[2])
        token, feature = rows.nonzero()
        found.add(keep[start : start + n], start * per, token, feature, rows[token, feature])
        start += n
    assert start == len(dense)
    return found


def windows_of(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """[windows, size] of one feature's [blocks, C], the last of a block filled up with zeros."""
    per = -(-values.shape[1] // size)
    wide = np.zeros((len(values), per * size), np.float32)
    wide[:, : values.shape[1]] = values
    return wide.reshape(-1, size)


class Plain:
    """One feature, looked at alone: all windows in memory, sorted."""

    def __init__(self, values: NDArray[np.float32], feature: int, sizes: Sizes) -> None:
        self.values, self.sizes = windows_of(values, sizes.window), sizes
        peaks = self.values.max(1)
        firing = [int(w) for w in peaks.nonzero()[0]]
        self.top = sorted(firing, key=lambda w: (-peaks[w], w))[: sizes.top]
        rank = hashed(sizes.seed, np.arange(len(peaks)), np.array([feature]))[:, 0]
        drawn = sorted(firing, key=lambda w: int(rank[w]))[: sizes.groups * sizes.each]
        self.sample = sorted(drawn, key=lambda w: (-peaks[w], w))
        self.groups = [i * sizes.groups // len(self.sample) for i in range(len(self.sample))]
        some = values[values > 0]
        self.fired, self.windows = len(some), len(firing)
        self.histogram = np.histogram(some, np.r_[0, EDGES[1:-1], np.inf])[0]
        self.firing = set(firing)


@pytest.mark.parametrize("waiting", [1, 2**14])
@pytest.mark.parametrize("batches", [[40], [1] * 40, [7, 30, 3]])
@pytest.mark.parametrize("context", [12, 13, 5])
def test_examples_counts_and_histograms_are_those_of_a_plain_look(
    batches: list[int], context: int, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(best, "LEAST_WAITING", waiting)  # many merges, or one
    dense, keep = made_up(context, 40, context, 30)
    found = collected(dense, keep, batches)
    top, (sample, quantiles) = found.top(), found.sample()
    counted = dense * keep[..., None]
    for feature in range(30):
        plain = Plain(counted[..., feature], feature, SIZES)
        for examples, wanted in ((top, plain.top), (sample, plain.sample)):
            there = examples.number[feature] != NONE
            assert examples.number[feature][there].tolist() == wanted
            assert (examples.values[feature][there] == plain.values[wanted]).all()
            assert there[: len(wanted)].all()
        assert quantiles[feature].tolist()[: len(plain.groups)] == plain.groups
        assert found.fired[feature] == plain.fired and found.windows[feature] == plain.windows
        assert found.histogram[feature].tolist() == plain.histogram.tolist()
        assert found.largest[feature] == counted[..., feature].max()
        assert found.total[feature] == pytest.approx(counted[..., feature].sum(dtype=np.float64))
    assert found.tokens == keep.sum()
    assert found.fired[0] == 0 and (top.number[0] == NONE).all()


def test_examples_of_not_firing_do_not_fire_and_hold_tokens_that_count() -> None:
    dense, keep = made_up(1, 40, 12, 30)
    keep[3] = False
    found = collected(dense, keep, [9, 31])
    counted = dense * keep[..., None]
    whole = windows_of(keep.astype(np.float32), SIZES.window).any(1)
    looked_at = [int(w) for w in pool(80, SIZES) if whole[w]]
    for feature, numbers in enumerate(found.idle()):
        plain = Plain(counted[..., feature], feature, SIZES)
        quiet = {w for w in looked_at if w not in plain.firing}
        chosen = [int(n) for n in numbers if n != NONE]
        assert set(chosen) <= quiet
        assert len(set(chosen)) == len(chosen) == min(SIZES.idle, len(quiet))
    assert len({tuple(each) for each in found.idle()}) > 5


def test_groups_are_ranges_of_peaks_that_follow_one_another() -> None:
    dense, keep = made_up(2, 200, 12, 20)
    dense *= np.random.default_rng(0).random(dense.shape).astype(np.float32)
    found = collected(dense, keep, [200])
    sample, quantiles = found.sample()
    often = np.flatnonzero(found.windows >= SIZES.sample)
    assert len(often) > 5
    for feature in often:
        peaks = [sample.peak[feature][quantiles[feature] == g] for g in range(SIZES.groups)]
        assert [len(p) for p in peaks] == [SIZES.each] * SIZES.groups
        assert all(a.min() >= b.max() for a, b in pairwise(peaks))
        assert min(map(np.min, peaks)) > 0


def test_the_sample_is_fair() -> None:
    """Over many features that fire everywhere, each window is drawn about equally often."""
    dense = np.ones((30, 6, 2000), np.float32)
    sample, _ = collected(dense, np.ones((30, 6), bool), [30]).sample()
    often = np.bincount(sample.number.ravel(), minlength=30)
    expected = 2000 * SIZES.sample / 30
    assert (abs(often - expected) < 5 * expected**0.5).all()


@pytest.mark.parametrize("arch", ["topk", "jumprelu", "relu_l1"])
def test_what_an_sae_fires_on_is_what_its_encoder_says(bench: Bench, arch: str) -> None:
    torch.manual_seed(0)
    d, n = bench.tap.dim, 96
    rows = torch.nn.functional.normalize(torch.randn(n, d), dim=1)
    tensors = {"W_enc": rows.T.contiguous(), "W_dec": rows, "b_enc": torch.full((n,), -1.0),
               "b_dec": torch.zeros(d)}  # fmt: skip
    if arch == "jumprelu":
        tensors["threshold"] = torch.rand(n)
    sae = SAE.from_tensors(tensors, arch, 5 if arch == "topk" else None)
    blocks = torch.from_numpy(bench.blocks.tokens("train", 0, 8).astype(np.int64))
    (acts,) = Capture(bench.model, [bench.tap])(blocks)
    keep = bench.keep(acts, bench.blocks.reasons("train", 0, 8)).numpy()
    token, feature, value = fired(sae, acts, keep)
    rebuilt = np.zeros((keep.size, n), np.float32)
    rebuilt[token, feature] = value
    flat = acts.flatten(0, 1)
    wanted = np.zeros_like(rebuilt)
    wanted[keep.ravel()] = sae.encode(flat[torch.from_numpy(keep.ravel())]).numpy()
    assert (rebuilt == wanted).all() and len(value) > 100
    assert (np.diff(token) >= 0).all()


def test_saes_are_grouped_in_order_into_the_room_there_is() -> None:
    assert groups("abcde", [2, 2, 3, 9, 1], 5) == [["a", "b"], ["c"], ["d"], ["e"]]
