"""SAEs that are equal but for the model's weights stand in pairs; others never do."""

from __future__ import annotations

import pytest

from sae_cli.plan.graph import build
from sae_cli.plan.pin import Pins
from sae_cli.report.kin import in_pairs, likeness
from sae_cli.spec.load import load
from sae_cli.store.layout import Workspace

SPEC = """\
name: paired
models: {noise: {builtin: tiny, reinit: 7}}
train: {width: 64}
matrix:
  model: [noise, tiny]
  layer: [1, 2]
  k: [4, 8]
"""


@pytest.fixture
def graph(tmp_path):
    def make(*sets):
        (tmp_path / "s.yaml").write_text(SPEC)
        return build(
            Pins(Workspace(tmp_path).root, online=False).apply(load(tmp_path / "s.yaml", sets))
        )

    return make


def said(graph):
    return [(train.slug, like and like.slug) for _, train, like in in_pairs(graph)]


def test_a_control_stands_behind_its_like(graph):
    wanted = []
    for layer in (1, 2):
        for k in (4, 8):
            name = f"tiny.L{layer}.resid_post.topk.w64.k{k}"
            wanted += [(name, None), (name.replace("tiny.", "tiny-random7."), name)]
    assert said(graph()) == wanted


def test_the_text_is_packed_once_and_activations_are_each_models_own(graph):
    made = graph()
    assert len(made.of("tokens")) == 1
    assert {s.slug for s in made.of("cache")} == {
        f"{model}.L{layer}.resid_post" for model in ("tiny", "tiny-random7") for layer in (1, 2)
    }


@pytest.mark.parametrize("alone", ["matrix.model=[noise]", "models.noise.dtype=bfloat16"])
def test_without_an_sae_that_is_equal_but_for_the_weights_there_is_no_pair(graph, alone):
    assert all(like is None for _, like in said(graph(alone)))


def test_an_include_of_another_seed_is_no_pair(graph):
    more = "matrix.include=[{model: noise, layer: 1, k: 4, seed: 1}]"
    assert said(graph(more))[-1] == ("tiny-random7.L1.resid_post.topk.w64.k4.s1", None)


def test_likeness_forgets_what_it_is_told_to_forget(graph):
    trains = [t for _, t in graph("matrix.seed=[0, 1]", "matrix.layer=[1]", "matrix.k=[4]").cells]
    assert len({likeness(t) for t in trains}) == 2
    assert len({likeness(t, seed=False) for t in trains}) == 1
    assert len({likeness(t, seed=False, weights=True) for t in trains}) == 2
