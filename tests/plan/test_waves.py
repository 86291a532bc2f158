"""A budget of disk to waves: nothing exceeds it, nothing is left out, forwards cost least."""

from __future__ import annotations

import itertools

import pytest

from sae_cli.errors import SaectlError
from sae_cli.plan.jobs import coalesce, disk_bytes
from sae_cli.plan.place import folder
from sae_cli.plan.spread import parts, spread
from sae_cli.plan.waves import RECORDS, schedule, waves, within
from sae_cli.store.records.claim import claim

SUITE = """\
name: suite
model: tiny
data: {tokens: 65_536, context: 128}
train: {width: 64}
matrix: {layer: all, site: [resid_post, attn_z], k: [4, 8]}
"""
PAIRED = """\
name: paired
model: tiny
data: {tokens: 65_536, context: 128}
train: {width: 64, arch: topk, k: 8, out_site: mlp_out}
matrix: {layer: [0, 1, 2], site: [mlp_in, resid_mid]}
"""


def size(stage):
    return disk_bytes(stage) + RECORDS


def cost(cut):
    return sum(max(s.work.layer for s in wave) + 1 for wave in cut)


def cheapest(stages, budget):
    """The least cost of all ways to cut, by trying every one."""
    if not stages:
        return 0
    first, rest = stages[0], stages[1:]
    best = None
    for n in range(len(rest) + 1):
        for more in itertools.combinations(rest, n):
            wave = (first, *more)
            if sum(map(size, wave)) <= budget:
                left = [s for s in rest if s not in more]
                found = cost([wave]) + cheapest(left, budget)
                best = found if best is None else min(best, found)
    return best


@pytest.mark.parametrize("share", [0.2, 0.34, 0.5, 0.75, 0.99])
def test_no_wave_exceeds_the_budget_and_no_cut_costs_less(graph, workspace, share):
    made = graph(SUITE.replace("attn_z", "mlp_out"))  # of one size
    caches = made.of("cache")
    budget = int(share * sum(map(size, caches)))
    found = waves(made, made.stages, workspace, budget)
    assert sorted(s.name for w in found for s in w.stages) == sorted(s.name for s in caches)
    assert all(w.bytes == sum(map(size, w.stages)) <= budget for w in found)
    assert cost([w.stages for w in found]) == cheapest(caches, budget)


@pytest.mark.parametrize("share", [0.26, 0.34, 0.5, 0.75])
def test_arrays_of_two_sizes_fit_too(graph, workspace, share):
    made = graph(SUITE)
    budget = int(share * sum(map(size, made.of("cache"))))
    found = waves(made, made.stages, workspace, budget)
    assert all(w.bytes <= budget for w in found)
    assert sum(len(w.stages) for w in found) == 8
    for one, other in itertools.pairwise(found):  # two neighbours in one wave would cost less
        assert one.bytes + other.bytes > budget


def test_enough_room_is_one_wave_and_no_budget_is_none(graph, workspace):
    made = graph(SUITE)
    (one,) = waves(made, made.stages, workspace, 10**12)
    assert len(one.stages) == 8 and not one.begun
    assert schedule(made, made.stages, workspace) == [(None, made.stages)]


def test_every_stage_is_in_one_part_and_after_its_inputs(graph, workspace):
    made = graph(SUITE, "storage.budget=40MB")
    ahead = schedule(made, made.stages, workspace)
    assert len(ahead) > 2
    order = [s.name for _, part in ahead for s in part]
    assert sorted(order) == sorted(s.name for s in made.stages)
    for _, part in ahead:
        names = {s.name for s in part}
        arrays = {s.name for s in part if s.kind == "cache"}
        for stage in part:
            read = {d.name for d in stage.deps.values() if d.kind == "cache"}
            assert stage.kind != "train" or read <= arrays
            for dep in stage.deps.values():
                assert dep.name in names or order.index(dep.name) < order.index(stage.name)
    assert ahead[-1][1][-1].kind == "release"


def test_what_a_transcoder_reads_and_predicts_is_there_together(graph, workspace):
    made = graph(PAIRED)
    caches = made.of("cache")
    assert len(caches) == 9  # two sites are read, and both predict the same one
    found = waves(made, made.stages, workspace, sum(map(size, caches)) // 3)
    assert [len(w.stages) for w in found] == [3, 3, 3]
    for wave in found:
        there = {s.name for s in wave.stages}
        for train in made.of("train"):
            read = {d.name for d in train.deps.values() if d.kind == "cache"}
            assert read <= there or not read & there


def test_what_was_begun_is_the_first_wave_and_is_not_cut_anew(graph, workspace, finish):
    made = graph(SUITE)
    caches = made.of("cache")
    budget = 3 * max(map(size, caches))
    with claim(folder(workspace, caches[5])):
        finish([caches[2]])
        first, *rest = waves(made, made.stages, workspace, budget)
    assert first.begun and set(first.stages) == {caches[2], caches[5]}
    assert all(not w.begun for w in rest)
    assert sorted(s.name for w in rest for s in w.stages) == sorted(
        s.name for s in caches if s not in first.stages
    )
    left = within(first, made.stages)
    assert {s.kind for s in left} == {"tokens", "cache", "train", "eval"}
    assert {s.deps["cache"].name for s in left if s.kind == "train"} == {
        s.name for s in first.stages
    }


def test_what_others_keep_leaves_less_room(graph, workspace, finish):
    made = graph(SUITE)
    first = made.of("cache")[0]
    finish([first])
    stages = [s for s in made.stages if first.name not in {d.name for d in s.deps.values()}]
    stages.remove(first)
    budget = 3 * size(first) + 2 * RECORDS
    for wave in waves(made, stages, workspace, budget):
        assert wave.bytes + size(first) <= budget
    with pytest.raises(SaectlError, match=r"no room for .* beside what is kept .*L0.resid_post"):
        waves(made, stages, workspace, 2 * size(first) + RECORDS)


def test_an_array_that_no_wave_can_hold_is_refused_with_its_size(graph, workspace):
    made = graph(SUITE)
    with pytest.raises(SaectlError, match=r"storage.budget is 1 MB, and cache/tiny.L0.* alone"):
        waves(made, made.stages, workspace, 10**6)


def test_sizes_that_are_not_known_are_said(graph, workspace):
    made = graph()  # of a hub model whose config.json is not here
    with pytest.raises(SaectlError, match=r"size of cache/model.* is not known"):
        waves(made, made.stages, workspace, 10**12)


def test_evaluations_are_split_by_arrays_and_nothing_else_is(graph):
    made = graph(SUITE)
    whole = coalesce(made.stages)
    for width in (1, 2, 3, 5, 100):
        jobs = spread(whole, width)
        evals = [job for job in jobs if job.stages[0].kind == "eval"]
        assert len(evals) == min(max(width, 1), 8)
        assert sorted(s.name for j in jobs for s in j.stages) == sorted(s.name for s in made.stages)
        assert [j for j in jobs if j not in evals] == [
            j for j in whole if j.stages[0].kind != "eval"
        ]
        homes = [{s.deps["cache"].name for s in job.stages} for job in evals]
        assert sum(map(len, homes)) == 8, "an array's evaluations stay together"


def test_a_capture_keeps_as_many_busy_as_it_has_parts(graph):
    made = graph(SUITE, "cache.part_tokens=16384")
    assert [parts(s) for s in made.of("cache")] == [2] * 8
    assert {parts(s) for s in made.stages if s.kind != "cache"} == {1}


def test_a_pair_of_which_one_is_there_is_done_first_or_refused_never_cut(graph, workspace, finish):
    made = graph(PAIRED)
    at = {(s.work.layer, s.work.site): s for s in made.of("cache")}
    one, other = at[0, "mlp_in"], at[0, "mlp_out"]
    finish([one])
    trio = 3 * size(one)
    with pytest.raises(SaectlError, match="alone take"):
        waves(made, made.stages, workspace, size(one) + RECORDS)
    first, *_ = waves(made, made.stages, workspace, trio)
    assert first.begun and {one, other} <= set(first.stages)
    train = [s for s in made.of("train") if one.name in {d.name for d in s.deps.values()}]
    finish(made.of("tokens"))
    for wave in waves(made, [other, *train], workspace, 2 * size(one)):
        assert set(within(wave, [other, *train])) == {other, *train}
