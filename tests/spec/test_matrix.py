"""A matrix is the product of its axes, without what is excluded, with what is included."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_cli.errors import SpecError
from sae_cli.spec.matrix import expand
from sae_cli.spec.presets import PRESETS, ModelFacts
from sae_cli.spec.problems import Loc, SpecProblems
from sae_cli.spec.sweep import SweepSpec

TINY = PRESETS["tiny"].facts


def facts(model: str, loc: Loc) -> ModelFacts | None:
    return PRESETS[model].facts if model in PRESETS else None


def cells(matrix, **sweep):
    return expand(SweepSpec.model_validate({"name": "x", "matrix": matrix, **sweep}), facts)


def problems(matrix, **sweep):
    with pytest.raises(SpecProblems) as caught:
        cells(matrix, **sweep)
    return {p.loc: p.what for p in caught.value.problems}


def test_a_cell_without_wishes_is_a_topk_on_the_residual_stream_of_the_embedded_model():
    (cell,) = cells({"layer": [1]})
    assert (cell.model, cell.layer, cell.site) == ("tiny", 1, "resid_post")
    assert cell.train.arch == "topk"
    assert (cell.train.width, cell.train.expansion) == (8 * TINY.d_model, None)


def test_the_product_runs_through_the_axes_with_the_model_slowest():
    made = cells(
        {
            "seed": [0, 1],
            "k": [4, 8],
            "site": ["mlp_out", "resid_post"],
            "layer": [3, 1],
            "model": ["tiny", "qwen3-4b"],
        },
        train={"width": 64},
    )
    got = [(c.model, c.layer, c.site, c.train.k, c.train.seed) for c in made]
    assert sorted(got) == sorted(
        itertools.product(["tiny", "qwen3-4b"], [3, 1], ["mlp_out", "resid_post"], [4, 8], [0, 1])
    )
    places = [(c.model, c.layer, c.site) for c in made]
    assert places[::4] == list(
        itertools.product(["tiny", "qwen3-4b"], [3, 1], ["mlp_out", "resid_post"])
    )


def test_the_sae_axis_varies_several_fields_together():
    made = cells(
        {
            "layer": [1, 2],
            "sae": [{"arch": "topk", "k": 4}, {"arch": "relu_l1", "l1": 3, "lr": 1e-3}],
        }
    )
    assert [(c.layer, c.train.arch, c.train.lr) for c in made] == [
        (1, "topk", None),
        (1, "relu_l1", 1e-3),
        (2, "topk", None),
        (2, "relu_l1", 1e-3),
    ]


def test_an_axis_beats_train_and_either_form_of_width_beats_the_other():
    shared = {"width": 512, "k": 4, "seed": 5}
    (plain,) = cells({"layer": [1]}, train=shared)
    assert (plain.train.width, plain.train.k, plain.train.seed) == (512, 4, 5)
    (wide,) = cells({"layer": [1], "expansion": [4]}, train=shared)
    assert wide.train.width == 4 * TINY.d_model
    (narrow,) = cells({"layer": [1], "width": [128], "k": [2]}, train={"expansion": 64})
    assert (narrow.train.width, narrow.train.k) == (128, 2)
    (entry,) = cells({"layer": [1], "sae": [{"expansion": 2}]}, train=shared)
    assert entry.train.width == 2 * TINY.d_model


def test_expansion_counts_from_what_the_site_gives():
    made = cells({"layer": [1], "site": ["resid_post", "attn_z"], "expansion": [2]})
    assert [c.train.width for c in made] == [2 * 64, 2 * 4 * 32]


def test_layer_all_means_every_layer_of_each_model():
    made = cells(
        {"model": ["tiny", "qwen3-1.7b"], "layer": "all", "exclude": [{"layer": 0}]},
        train={"width": 64},
    )
    assert [(c.model, c.layer) for c in made] == [
        *(("tiny", n) for n in range(1, 4)),
        *(("qwen3-1.7b", n) for n in range(1, 28)),
    ]


@pytest.mark.parametrize(
    ("depth", "layer"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.5, 2), (0.99, 3), (1.0, 3)]
)
def test_depth_is_a_share_of_the_layers_rounded_down(depth, layer):
    (cell,) = cells({"depth": [depth]})
    assert cell.layer == layer


def test_exclude_takes_every_cell_that_matches_all_it_says():
    made = cells(
        {
            "layer": [0, 1, 2],
            "site": ["resid_post", "mlp_out"],
            "exclude": [{"layer": 0}, {"layer": 2, "site": "mlp_out"}, {"site": "mlp_out"}],
        }
    )
    assert [(c.layer, c.site) for c in made] == [(1, "resid_post"), (2, "resid_post")]


def test_exclude_knows_what_train_and_the_defaults_say():
    axes = {"layer": [1, 2]}
    for want in ({"seed": 7}, {"arch": "topk"}, {"site": "resid_post"}, {"model": "tiny"}):
        made = cells({**axes, "exclude": [{"layer": 1, **want}]}, train={"width": 64, "seed": 7})
        assert [c.layer for c in made] == [2]


def test_include_adds_whole_cells_after_the_others_and_is_never_excluded():
    made = cells(
        {
            "layer": [1],
            "site": ["resid_post"],
            "exclude": [{"layer": 1, "site": "resid_post"}],
            "include": [
                {"layer": 1, "site": "resid_post", "arch": "relu_l1"},
                {"depth": 0.75, "site": "mlp_in", "seed": 3},
            ],
        },
        train={"width": 64},
    )
    assert [(c.layer, c.site, c.train.arch, c.train.seed) for c in made] == [
        (1, "resid_post", "relu_l1", 0),
        (3, "mlp_in", "topk", 3),
    ]


def test_a_matrix_may_be_nothing_but_includes():
    made = cells({"include": [{"layer": 2}, {"layer": 1, "k": 4}]})
    assert [c.layer for c in made] == [2, 1]


def test_include_must_name_the_model_when_the_models_are_an_axis():
    found = problems({"model": ["tiny"], "layer": [1], "include": [{"layer": 2}]})
    assert found == {
        ("matrix", "include", 0): "an include is a complete cell; missing: model",
    }


def test_cells_that_differ_in_words_only_are_the_same_cell():
    found = problems({"layer": [1], "sae": [{"width": 512}, {"expansion": 8, "arch": "topk"}]})
    assert list(found) == [("matrix",)] and "already there" in found["matrix",]
    found = problems({"layer": [1], "include": [{"depth": 0.25}]})
    assert list(found) == [("matrix", "include", 0)]


def test_sizes_that_are_not_known_are_only_missed_where_they_are_needed():
    (cell,) = cells({"layer": [77], "width": [64]}, model="org/name")
    assert (cell.layer, cell.train.width) == (77, 64)
    assert list(problems({"layer": "all"}, model="org/name")) == [("matrix", "layer")]
    assert list(problems({"depth": [0.5]}, model="org/name")) == [("matrix", "depth", 0)]
    assert list(problems({"layer": [1]}, model="org/name")) == [("matrix",)]


def test_a_model_that_cannot_exist_is_told_once_and_nothing_is_guessed_of_it(sweep):
    with pytest.raises(SpecError) as caught:
        sweep("name: x\nmodel: nobody\nmatrix: {layer: all, depth: [0.5], k: [4, 8, 8]}\n")
    said = str(caught.value)
    assert said.count("'nobody' is no preset") == 1
    assert "sizes" not in said
    assert "this value is already in the axis" in said and "layer is an axis too" in said


LAYERS, SITES = (0, 1, 2, 3), ("resid_post", "mlp_out", "attn_z")
some_layers = st.lists(st.sampled_from(LAYERS), min_size=1, unique=True)
some_sites = st.lists(st.sampled_from(SITES), min_size=1, unique=True)
some_seeds = st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)
wishes = st.dictionaries(
    st.sampled_from(["layer", "site", "seed"]), st.integers(0, 3), min_size=1
).map(lambda d: {k: SITES[v % 3] if k == "site" else v for k, v in d.items()})


@given(some_layers, some_sites, some_seeds, st.lists(wishes, max_size=3))
def test_cells_are_the_product_without_the_excluded_each_once(layers, sites, seeds, exclude):
    whole = list(itertools.product(layers, sites, seeds))

    def hit(cell, want):
        return all(
            dict(zip(("layer", "site", "seed"), cell, strict=True))[k] == v for k, v in want.items()
        )

    left = [c for c in whole if not any(hit(c, want) for want in exclude)]
    matrix = {"layer": layers, "site": sites, "seed": seeds, "exclude": exclude}
    idle = [i for i, want in enumerate(exclude) if not any(hit(c, want) for c in whole)]
    if idle or not left:
        found = problems(matrix)
        assert {loc for loc in found if len(loc) == 3} == {("matrix", "exclude", i) for i in idle}
        assert idle or list(found) == [("matrix", "exclude")]
        return
    made = cells(matrix)
    assert [(c.layer, c.site, c.train.seed) for c in made] == left
    assert len(set(made)) == len(made)


@given(st.permutations(["layer", "site", "k", "seed"]))
def test_the_order_in_which_axes_are_written_changes_nothing(order):
    axes = {"layer": [1, 2], "site": ["mlp_out", "attn_out"], "k": [4, 8], "seed": [1, 0]}
    assert cells({name: axes[name] for name in order}) == cells(axes)
