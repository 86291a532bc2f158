"""Stages that can share a forward become one job, and a plan knows their sizes on disk."""

from __future__ import annotations

import pytest

from sae_cli.plan.graph import amount, train_slug
from sae_cli.plan.jobs import coalesce, disk_bytes
from sae_cli.spec.train import ARCHITECTURES

GRID = """\
name: grid
model: MODEL
data: {tokens: 1000, heldout_tokens: 100, context: 64}
cache: {dtype: float16}
train: {width: 512}
matrix:
  layer: [1, 2]
  site: [resid_post, attn_z]
  k: [4, 8]
"""


def of_kind(graph, kind):
    return [[s.slug for s in job.stages] for job in coalesce(graph.of(kind))]


def test_all_sites_of_a_model_are_captured_in_one_forward(graph):
    made = graph(GRID.replace("MODEL", "tiny"))
    assert [len(job) for job in of_kind(made, "cache")] == [4]


def test_the_trainings_of_one_array_share_its_read(graph):
    made = graph(GRID.replace("MODEL", "tiny"))
    jobs = of_kind(made, "train")
    assert [len(job) for job in jobs] == [2, 2, 2, 2]
    for job in jobs:
        assert len({slug.rpartition(".")[0] for slug in job}) == 1


def test_all_saes_of_a_model_share_the_forwards_of_their_evaluation(graph):
    made = graph(GRID.replace("MODEL", "tiny"))
    assert [len(job) for job in of_kind(made, "eval")] == [8]


def test_transcoders_are_judged_with_the_saes_of_their_model(graph):
    sites = "site: [mlp_in, mlp_out]"
    to = "sae: [{k: 8}, {k: 8, out_site: resid_post}]"
    spec = GRID.replace("MODEL", "tiny").replace("site: [resid_post, attn_z]", sites)
    made = graph(spec.replace("k: [4, 8]", to))
    assert len({"target" in stage.deps for stage in made.of("eval")}) == 2
    assert [len(job) for job in of_kind(made, "eval")] == [8]


@pytest.mark.parametrize(
    ("axis", "sizes"),
    [
        ("width: [512, 1024]", [4]),
        ("batch_size: [256, 2048]", [4]),
        ("lr: [1e-3, 3e-4]", [4]),
        ("num_tokens: [1000, 2000]", [4]),
        ("seed: [0, 1]", [2, 2]),
        ("data_seed: [0, 1]", [2, 2]),
        ("shuffle_tokens: [4096, 8192]", [2, 2]),
    ],
)
def test_what_shares_an_order_shares_a_read_whatever_else_differs(graph, axis, sizes):
    one = GRID.replace("MODEL", "tiny").replace("[1, 2]", "[1]")
    one = one.replace("[resid_post, attn_z]", "[resid_post]")
    assert [len(job) for job in of_kind(graph(f"{one}  {axis}\n"), "train")] == sizes


def test_seeds_share_a_read_when_the_order_has_a_seed_of_its_own(graph):
    one = GRID.replace("MODEL", "tiny").replace("{width: 512}", "{width: 512, data_seed: 0}")
    assert [len(job) for job in of_kind(graph(f"{one}  seed: [0, 1, 2]\n"), "train")] == [6] * 4


def test_two_models_never_share(graph):
    two = GRID.replace("model: MODEL\n", "").replace("layer:", "model: [tiny, qwen3-4b]\n  layer:")
    assert [len(job) for job in of_kind(graph(two), "cache")] == [4, 4]
    assert [len(job) for job in of_kind(graph(two), "eval")] == [8, 8]


def test_joining_keeps_every_stage_once_and_in_order(graph):
    made = graph(GRID.replace("MODEL", "tiny"))
    joined = [s for job in coalesce(made.stages) for s in job.stages]
    assert sorted(s.name for s in joined) == sorted(s.name for s in made.stages)
    for kind in ("tokens", "cache", "train", "eval", "release"):
        assert [s for s in joined if s.kind == kind] == made.of(kind)


def test_sizes_on_disk_follow_from_the_spec(graph):
    made = graph(GRID.replace("MODEL", "tiny"))
    rows = 16 * 64  # 1000 tokens in whole contexts
    (tokens,) = made.of("tokens")
    assert disk_bytes(tokens) == (rows + 2 * 64) * (4 + 8 + 4 + 1)
    sizes = {s.slug: disk_bytes(s) for s in made.of("cache")}

    def array(d):  # one shard of one chunk: rows, moments of the shard, moments of all
        return rows * (d * 2 + 1) + 8 * (3 + 1282 + 2 * d) + 8 * (1282 + 3 * d)

    assert sizes["tiny.L1.resid_post"] == array(64)
    assert sizes["tiny.L1.attn_z"] == array(128)
    trains = [disk_bytes(s) for s in made.of("train")]
    assert trains[0] == 4 * (2 * 64 * 512 + 512 + 64) + 4 * 72
    (release,) = made.of("release")
    assert {disk_bytes(s) for s in made.of("eval")} == {8 * 512 + 72}
    assert disk_bytes(release) == sum(trains) + len(trains) * (4 * 512 + 72)


def test_sizes_that_are_not_known_are_not_guessed(graph):
    made = graph(
        GRID.replace("MODEL", "org/name").replace("site: [resid_post, attn_z]", "seed: [1]")
    )
    assert disk_bytes(made.of("tokens")[0]) is not None
    for kind in ("cache", "train", "release"):
        assert disk_bytes(made.of(kind)[0]) is None


@pytest.mark.parametrize(
    ("tokens", "said"),
    [(7, "7"), (4096, "4.096k"), (400_000, "400k"), (2_500_000, "2.5M"), (10**9, "1B")],
)
def test_amounts_are_told_for_people(tokens, said):
    assert amount(tokens) == said


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_has_a_readable_name(arch):
    plain = ARCHITECTURES[arch](arch=arch, width=64)
    assert train_slug(plain).startswith(f"{arch}.w64")
    other = ARCHITECTURES[arch](arch=arch, width=64, lr=3e-4, seed=2)
    assert train_slug(other) == f"{train_slug(plain)}.lr0.0003.s2"
