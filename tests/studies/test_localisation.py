"""Patches between prompts whose names are exchanged: what they move, against whole forwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sae_cli.errors import ModelError
from sae_cli.lm.load import load_model
from sae_cli.lm.restart import Forwards
from sae_cli.lm.sites import find_tap
from sae_cli.lm.splice import forward_logits
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import ModelSpec
from sae_cli.spec.studies import LocalisationStudy
from sae_cli.studies import localisation
from sae_cli.studies.bench import Bench, Figure
from sae_cli.studies.ioi import Patching, pairs

FEW = LocalisationStudy(
    k=(1, 8, 128), pairs=16, heldout_pairs=16, draws=2, pca_tokens=2048, positions="all"
)


@pytest.fixture(scope="module")
def exact(bench: Bench) -> Bench:
    """The bench with a float32 model, and an SAE that rebuilds everything: both signs of each
    coordinate."""
    model = load_model(ModelSpec(builtin="tiny", dtype="float32"), torch.device("cpu"))
    tap = find_tap(model, bench.tap.layer, bench.tap.site)
    eye = torch.eye(tap.dim)
    both = torch.cat([eye, -eye])
    sae = SAE("relu_l1", both.T.contiguous(), both, torch.zeros(len(both)), torch.zeros(tap.dim))
    return replace(bench, model=model, tap=tap, saes={"both": sae}, twins={"both": ()})


def row(figures: list[Figure], metric: str, slice: str, control: str | None = None) -> Figure:
    (found,) = [f for f in figures if (f.metric, f.slice, f.control) == (metric, slice, control)]
    return found


def difference(logits: torch.Tensor, pair: Any) -> float:
    return float(logits[0, -1, pair.answer] - logits[0, -1, pair.other])


def test_a_pair_differs_in_its_names_alone_and_turns_the_answer_around(exact: Bench) -> None:
    one = pairs(exact.tokenizer, 40, seed=0)
    two = pairs(exact.tokenizer, 40, seed=1, without=one)
    assert len({p for pair in one for p in (pair.base, pair.exchanged)}) == 80
    assert not {p.base for p in one} & {p for pair in two for p in (pair.base, pair.exchanged)}
    for pair in [*one, *two]:
        turned = {pair.answer: pair.other, pair.other: pair.answer}
        assert pair.exchanged == tuple(turned.get(i, i) for i in pair.base) != pair.base
        assert pair.base.count(pair.answer) == 1 and pair.base.count(pair.other) == 2
    right = [difference(forward_logits(exact.model, torch.tensor([p.base])), p) > 0 for p in two]
    back = [
        difference(forward_logits(exact.model, torch.tensor([p.exchanged])), p) < 0 for p in two
    ]
    assert np.mean(right) > 0.9 and np.mean(back) > 0.9


def test_patching_all_of_x_everywhere_is_the_exchanged_prompt(exact: Bench) -> None:
    some = pairs(exact.tokenizer, 12, seed=0)
    patching = Patching(exact, Forwards(exact.model), some, last=False)
    moved = patching.patched([g.change for g in patching.groups])
    for i, pair in enumerate(some):
        clean, other = (
            difference(forward_logits(exact.model, torch.tensor([ids])), pair)
            for ids in (pair.base, pair.exchanged)
        )
        assert patching.clean[i] == pytest.approx(clean, abs=1e-3)
        assert moved[i] == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("last", [True, False])
def test_gradients_are_those_of_small_patches_at_both_ends(exact: Bench, last: bool) -> None:
    some = pairs(exact.tokenizer, 8, seed=0)
    patching = Patching(exact, Forwards(exact.model), some, last)
    found = np.zeros(8)
    for group, gradient in zip(patching.groups, patching.gradients(), strict=True):
        found[group.at] = (group.change * gradient).sum((1, 2)).numpy()
    step = 1e-2

    def at(share: float) -> Any:
        return patching.patched([share * g.change for g in patching.groups])

    slopes = [(at(end + step) - at(end - step)) / (2 * step) for end in (0.0, 1.0)]
    assert found == pytest.approx(sum(slopes) / 2, rel=0.02, abs=0.05)


def test_an_sae_that_explains_all_moves_all_with_all_its_latents(exact: Bench) -> None:
    found = localisation.run(FEW, exact)["both"]
    full = row(found.figures, "localisation.full_v1", "kept")
    assert full.value is not None and full.value > 5 and full.docs == 16
    whole = row(found.figures, "localisation.moved_v1", "k=128")
    assert whole.value == pytest.approx(1, abs=1e-4) and whole.low == pytest.approx(1, abs=1e-4)
    assert row(found.figures, "localisation.edit_v1", "k=128").value == pytest.approx(1, abs=1e-5)
    some = row(found.figures, "localisation.moved_v1", "k=8")
    assert some.value is not None and some.low is not None and some.high is not None
    assert some.low < some.value < some.high < 1
    drawn, worst = (
        row(found.figures, "localisation.moved_v1", "k=8", name).value
        for name in ("random", "random_worst")
    )
    assert drawn is not None and worst is not None and drawn <= worst
    assert some.value > drawn, "chosen ones move more than random ones"
    pca = row(found.figures, "localisation.moved_v1", "k=128", "pca")
    assert (pca.value, pca.reason) == (None, "there are 64 to choose from")
    assert row(found.figures, "localisation.half_v1", "kept").value == 128
    assert found.detail["right"] > 0.9


def test_nothing_is_chosen_on_the_pairs_that_judge(exact: Bench) -> None:
    one = localisation.run(FEW, exact)["both"].detail["latents"]
    more = FEW.model_copy(update={"heldout_pairs": 20})
    assert localisation.run(more, exact)["both"].detail["latents"] == one


def test_the_last_token_knows_no_name_before_it_is_read(exact: Bench) -> None:
    early = replace(exact, tap=find_tap(exact.model, 0, "resid_pre"))
    spec = FEW.model_copy(update={"positions": "last"})
    found = localisation.run(spec, early)["both"].figures
    assert row(found, "localisation.full_v1", "kept").value == 0.0
    others = [f for f in found if f.metric != "localisation.full_v1"]
    assert len(others) == 7
    assert all(f.value is None and "nothing of the name" in (f.reason or "") for f in others)


def test_transcoders_are_null_and_other_models_are_refused(exact: Bench) -> None:
    found = localisation.run(FEW, replace(exact, transcoders=frozenset({"both"})))["both"]
    assert {f.reason for f in found.figures} == {localisation.TRANSCODER}
    with pytest.raises(ModelError, match="builtin: tiny"):
        localisation.run(FEW, replace(exact, spec=ModelSpec(hf="some/model")))
