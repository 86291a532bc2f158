"""A verb and its flags name stages; a name that fits nothing is an error, never an empty plan."""

from __future__ import annotations

import pytest

from sae_cli.errors import UsageError
from sae_cli.plan.choose import choose
from sae_cli.spec.work import KINDS


def kinds(choice):
    return [s.kind for s in choice.stages]


def test_stages_come_in_an_order_in_which_they_can_run(graph):
    made = graph()
    seen = set()
    for stage in made.stages:
        assert {d.name for d in stage.deps.values()} <= seen
        seen.add(stage.name)
    assert [s.kind for s in made.stages] == sorted((s.kind for s in made.stages), key=KINDS.index)
    assert len(seen) == len(made.stages) == 1 + 2 + 6 + 6 + 1


def test_run_means_all_and_a_kind_means_itself_and_what_it_needs(graph):
    made = graph()
    assert choose(made, None).stages == tuple(made.stages)
    assert set(kinds(choose(made, "cache"))) == {"tokens", "cache"}
    assert set(kinds(choose(made, "eval"))) == {"tokens", "cache", "train", "eval"}
    assert set(kinds(choose(made, "eval", upstream=False))) == {"eval"}


def test_only_means_exactly_what_it_names(graph):
    made = graph()
    train = made.of("train")[0]
    for glob in (train.key, train.name, f"train/{train.slug}"):
        assert choose(made, None, [glob]).stages == (train,)
    both = choose(made, None, [train.slug])
    assert kinds(both) == ["train", "eval"], "an SAE's training and its evaluation share a name"
    assert choose(made, "eval", [train.slug]).stages == (both.stages[1],)
    assert set(kinds(choose(made, None, ["*L1*"]))) == {"cache", "train", "eval"}
    assert kinds(choose(made, None, ["release", "tokens"])) == ["tokens", "release"]
    assert len(choose(made, None, ["*topk*", f"train/{train.slug}"]).stages) == 4


def test_only_of_another_kind_than_the_verb_is_refused(graph):
    with pytest.raises(UsageError, match="names no train stage of this sweep"):
        choose(graph(), "train", ["release"])


@pytest.mark.parametrize(
    ("glob", "guess"),
    [
        ("cach", "did you mean 'cache'?"),
        ("model.L1.resid_pots", "did you mean 'model.L1.resid_post'?"),
        ("zzz*", "matches no stage of fixed"),
    ],
)
def test_a_name_that_fits_nothing_is_refused_with_a_guess(graph, glob, guess):
    with pytest.raises(UsageError) as caught:
        choose(graph(), None, ["tokens", glob])
    assert f"--only {glob}: matches no stage of fixed" in caught.value.what
    assert guess in caught.value.what
    assert caught.value.hint == "saectl plan lists them"


def test_force_means_the_verbs_own_stages(graph):
    made = graph()
    again = choose(made, "eval", force=True)
    assert again.force == {s.name for s in made.of("eval")}
    assert set(kinds(again)) == {"tokens", "cache", "train", "eval"}
    assert choose(made, None, ["tokens"], force=True).force == {made.stages[0].name}


def test_force_downstream_takes_all_that_depends_on_them(graph):
    made = graph()
    (chosen,) = choose(made, None, ["model.L2.resid_post"]).stages
    again = choose(made, None, ["model.L2.resid_post"], downstream=True)
    assert chosen.kind == "cache" and chosen.name in again.force
    assert again.force == {s.name for s in made.stages if ".L2." in s.slug or s.kind == "release"}
    assert {s.name for s in again.stages} == again.force
    assert choose(made, None, downstream=True).force == {s.name for s in made.stages}


def test_dependants_and_upstream_are_each_others_mirror(graph):
    made = graph()
    pairs = [(stage, reader) for stage in made.stages for reader in made.dependants(stage)]
    assert pairs
    for stage, reader in pairs:
        assert stage.name in {s.name for s in made.upstream([reader])}
