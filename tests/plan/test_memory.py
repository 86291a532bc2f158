"""The memory of a grid is known before it is begun, and a grid that needs too much is cut."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from torch.profiler import ProfilerActivity, profile
from training import CHUNK, ROWS, bench, mixture

from sae_cli.plan import memory
from sae_cli.plan.memory import Limits, Need, fitted, need
from sae_cli.sae import quantised
from sae_cli.spec.train import ARCHITECTURES
from sae_cli.stages import grid, grid_member
from sae_cli.stages.grid_feed import Feed
from sae_cli.stages.train import run
from sae_cli.store.acts.shuffle import ShuffledReader

D = 64
SWEEP = f"""\
name: grid
data: {{tokens: {ROWS}, heldout_tokens: 100, context: 32}}
cache: {{dtype: float32, chunk_bytes: {CHUNK * (4 * D + 1)}}}
train: {{width: 16384, num_tokens: 384, batch_size: 128, shuffle_tokens: 512, data_seed: 0}}
matrix:
  layer: [1]
  site: [mlp_out]
  sae: SAES
"""
BOUND = 1.5
"""What is predicted is at least what is measured, and at most this many times it."""


def sweep(*saes: str) -> str:
    return SWEEP.replace("SAES", "[" + ", ".join(f"{{{sae}}}" for sae in saes) + "]")


def measured(place: Any, tasks: list, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of tensors that are alive at once while a grid trains: torch's own allocations, and
    what the reader and the feed hold in numpy's."""
    pools, blocks = [0], [0]

    class Counted(ShuffledReader):
        def __init__(self, *given: Any, **how: Any) -> None:
            super().__init__(*given, **how)
            pools.append(self.nbytes)

    class Feeding(Feed):
        def _fetch(self, low: int, high: int) -> None:
            super()._fetch(low, high)
            blocks.append(sum(block.nbytes for _, block in self._blocks))

    monkeypatch.setattr(grid, "ShuffledReader", Counted)
    monkeypatch.setattr(grid, "Feed", Feeding)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run(tasks)
    assert len(place.finished) == len(tasks) and pools[-1] and blocks[-1]
    found = profiler.profiler
    assert found is not None
    events = [e for e in found.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most + max(pools) + max(blocks)


DENSELY = {"jumprelu": ", l0: 4096"}
"""What makes an architecture begin with many active latents: its dense steps are predicted."""
GRIDS = {
    "four": ["k: 8", "k: 16", "k: 8, seed: 1", "k: 8, lr: 1e-3"],
    "sizes": ["k: 8", "k: 8, batch_size: 192", "k: 8, center: false, seed: 1"],
    "bytes": ["k: 8, moments_dtype: int8", "k: 8, moments_dtype: int8, seed: 1"],
    "narrow": ["k: 8, moments_dtype: bfloat16", "k: 8, ema_decay: 0.9", "arch: tied"],
    "mixed": ["k: 8", "arch: relu_l1, l1: 1", "arch: jumprelu, l0: 4096", "arch: batchtopk, k: 8"],
    **{
        arch: [f"arch: {arch}{DENSELY.get(arch, '')}, seed: {seed}" for seed in (0, 1, 2)]
        for arch in ARCHITECTURES
    },
}


@pytest.mark.parametrize("name", GRIDS)
def test_what_is_predicted_bounds_what_is_measured(graph, tmp_path, monkeypatch, name):
    stages = graph(sweep(*GRIDS[name])).of("train")
    predicted = need(stages)
    assert predicted is not None and len(stages) == len(GRIDS[name])
    place = bench(tmp_path / "bench", mixture(d=D))
    tasks = [
        place.task(stage.key, **stage.work.train.model_dump(exclude_unset=True)) for stage in stages
    ]
    found = measured(place, tasks, monkeypatch)
    assert found <= predicted.together <= BOUND * found, predicted.together / found


def test_every_architecture_is_known():
    assert memory.DENSE.keys() == ARCHITECTURES.keys()
    assert memory.CALIBRATION_ROWS == grid_member.CALIBRATION_ROWS
    assert memory.MOMENT_BLOCK == quantised.BLOCK


def test_a_grid_is_cut_into_passes_that_fit_and_keeps_its_order(graph):
    stages = graph(sweep(*(f"k: 8, seed: {i}" for i in range(5)))).of("train")
    one, all_ = need(stages[:1]), need(stages)
    assert one is not None and all_ is not None
    assert one.together < need(stages[:2]).together < all_.together < 5 * one.together
    room = need(stages[:2]).together
    for limits, sizes in [
        (Limits(None, None), [5]),
        (Limits(None, all_.together), [5]),
        (Limits(None, all_.together - 1), [4, 1]),
        (Limits(None, room), [2, 2, 1]),
        (Limits(None, 1), [1, 1, 1, 1, 1]),
        (Limits(all_.device, None), [5]),
        (Limits(need(stages[:3]).device, all_.host), [3, 2]),
        (Limits(all_.device, all_.host - 1), [1, 1, 1, 1, 1]),
    ]:
        passes = fitted(stages, limits)
        assert [len(one) for one in passes] == sizes, limits
        assert [stage for one in passes for stage in one] == stages


def test_what_is_not_known_is_not_guessed(graph):
    text = sweep("k: 8", "k: 16").replace("data:", "model: org/name\ndata:")
    stages = graph(text).of("train")
    assert need(stages) is None
    assert [len(one) for one in fitted(stages, Limits(None, 1))] == [2]


def test_a_gpu_holds_no_pools_and_folds_nothing():
    wanted = Need(kept=100, step=10, rows=1, end=1000, pools=10_000)
    assert wanted.device == 111 and wanted.host == 11_000 and wanted.together == 11_101


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "matryoshka", "jumprelu", "relu_l1"])
def test_each_of_several_processes_keeps_its_shard_and_works_on_its_part(graph, arch):
    def of(parallel):
        found = need(graph(sweep(f"arch: {arch}, parallel: {parallel}")).of("train"))
        assert found is not None
        return found

    alone, shards, parts = of("{}"), of("{latent: 4}"), of("{data: 2}")
    assert shards.kept < alone.kept / 3.5 and parts.kept == alone.kept
    assert shards.step < alone.step / 1.5 and parts.step < alone.step
    assert shards.end == parts.end == alone.end, "one process has the whole SAE at the end"
    assert (shards.pools, parts.pools) == (4 * alone.pools, 2 * alone.pools), "each has its own"
    assert parts.together >= 2 * (parts.kept + parts.rows + parts.step) + parts.pools
