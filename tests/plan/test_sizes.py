"""What a plan says that stages take on disk is what they take: within one percent, of each kind.

A small sweep of the embedded model is really run. Counted are the files that hold data; records
(JSON, logs, curves, the card) are not, and a plan says so.
"""

from __future__ import annotations

import pytest
from captures import Silent

from sae_cli.plan.place import folder
from sae_cli.plan.sizes import NORM_BINS, disk_bytes
from sae_cli.run import inline
from sae_cli.run.context import Context
from sae_cli.store.acts import norms

SWEEP = """\
name: sized
model: tiny
data: {tokens: 20_000, heldout_tokens: 2000, context: 64}
cache: {dtype: DTYPE, batch_tokens: 2048, chunk_bytes: 131_072, shard_bytes: 600_000}
train: {num_tokens: 1024, batch_size: 512, shuffle_tokens: 4096}
eval: {tokens: 512}
release: {dtype: DTYPE_OUT, formats: [sparsify, dictionary_learning, gemma-scope]}
matrix:
  layer: [1]
  site: [attn_z, resid_post]
  sae:
    - {arch: topk, k: 8, width: 512}
    - {arch: jumprelu, l0: 8, width: 768}
  include:
    - {layer: 1, site: mlp_in, arch: topk, k: 8, width: 256, out_site: mlp_out, skip: true}
    - {layer: 1, site: mlp_in, arch: relu_l1, width: 256}
"""
RECORDS = (".json", ".jsonl", ".txt", ".md", ".lock")


def data_bytes(place):
    """Bytes of the files of a stage that are no records; a view is not followed."""
    files = (path for path in place.path.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if not path.name.endswith(RECORDS))


@pytest.mark.parametrize(("stored", "released"), [("bfloat16", "float32"), ("int8", "bfloat16")])
def test_planned_bytes_are_those_on_disk_within_one_percent(graph, workspace, stored, released):
    text = SWEEP.replace("DTYPE_OUT", released).replace("DTYPE", stored)
    made = graph(text)
    results = inline.run(made.stages, Context(workspace, Silent(), "cpu", lambda: False))
    assert {result.ending for result in results} == {"done"}
    for stage in made.stages:
        planned, there = disk_bytes(stage), data_bytes(folder(workspace, stage))
        assert there > 0, stage.name
        assert planned == pytest.approx(there, rel=0.01), stage.name


def test_the_histogram_is_as_long_as_the_store_makes_it():
    assert norms.BINS == NORM_BINS


def test_a_short_last_chunk_of_tokens_takes_a_whole_one(graph):
    made = graph(
        "name: t\ndata: {tokens: 400_000, heldout_tokens: 1000}\ntrain: {width: 64}\n"
        "matrix: {layer: [1]}\n"
    )
    (tokens,) = made.of("tokens")
    assert disk_bytes(tokens) == (2 * 2**18 + 8 * 128) * 17
