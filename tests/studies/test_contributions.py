"""Contributions are differences of whole forwards, made here with plain hooks in float64."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import TEXT, live, own, reader
from torch import Tensor

from sae_cli.errors import DataError, UsageError
from sae_cli.lm.restart import Forwards
from sae_cli.studies.watch import contributions as how
from sae_cli.studies.watch.by_token import watch
from sae_cli.studies.watch.live import Live

MODULES = {
    "resid_post": lambda layer: layer,
    "mlp_out": lambda layer: layer.mlp,
    "attn_out": lambda layer: layer.self_attn,
}
PLACES = [("resid_post", None), ("mlp_out", None), ("attn_out", None), ("mlp_in", "mlp_out")]


def logits(model: Any, site: str, ids: Tensor, change: Tensor, position: int) -> Tensor:
    """float64 [V] behind a position, with `change` added to what the module of layer 2 gives."""

    def add(_: Any, __: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        new = first.clone()
        new[:, position] = new[:, position] + change
        return (new, *output[1:]) if isinstance(output, tuple) else new

    hook = MODULES[site](model.model.layers[2]).register_forward_hook(add)
    try:
        found: Tensor = model(input_ids=ids, use_cache=False).logits[0, position]
    finally:
        hook.remove()
    return found


def made(one: Live, position: int, target: int) -> how.Contributions:
    reading = one.read(reader().ids(TEXT))
    return how.contributions(one, Forwards(reader().model), reading, position, target)


@pytest.mark.parametrize("position", [9, 4])
@pytest.mark.parametrize(("site", "out"), PLACES)
def test_a_contribution_is_what_a_whole_forward_loses_without_the_feature(
    tmp_path: Path, site: str, out: str | None, position: int
) -> None:
    record = own(site=site) if out is None else own(site=site, out_site=out)
    one = live(tmp_path, record, arch="jumprelu")
    ids, target = reader().ids(TEXT), 17
    exact = copy.deepcopy(reader().model).double()
    zero = torch.zeros(64, dtype=torch.float64, requires_grad=True)
    clean = logits(exact, out or site, ids, zero, position)[target]
    (towards,) = torch.autograd.grad(clean, zero)
    clean = clean.detach()
    found = made(one, position, target)
    latents = one.read(ids).latents[position].double()
    assert found.active == len(found.found) == int((latents != 0).sum()) > 1
    assert found.logit == pytest.approx(float(clean), abs=1e-4)
    for each in found.found:
        assert each.activation == pytest.approx(float(latents[each.feature]))
        write = latents[each.feature] * one.sae.W_dec[each.feature].double()
        without = logits(exact, out or site, ids, -write, position)[target]
        assert each.contribution == pytest.approx(float(clean - without), abs=2e-4)
        assert each.gradient == pytest.approx(float(write @ towards), abs=2e-4)
    assert max(abs(each.contribution) for each in found.found) > 0.01
    sizes = [abs(each.contribution) for each in found.found]
    assert sizes == sorted(sizes, reverse=True)


def test_small_batches_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = live(tmp_path)
    whole = {c.feature: c for c in made(one, 9, 5).found}
    monkeypatch.setattr(how, "LOGITS", 3 * 10 * 744)
    some = made(one, 9, 5).found
    assert {c.feature for c in some} == whole.keys() and len(some) > 4
    for each in some:
        assert each.contribution == pytest.approx(whole[each.feature].contribution, abs=1e-4)


def test_of_many_features_those_of_the_largest_gradient_are_tried_and_the_rest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = live(tmp_path)
    whole = made(one, 9, 5)
    monkeypatch.setattr(how, "CANDIDATES", 3)
    some = made(one, 9, 5)
    assert some.active == whole.active > 3
    ranked = sorted(whole.found, key=lambda c: -abs(c.gradient))
    assert {c.feature for c in some.found} == {c.feature for c in ranked[:3]}


def test_the_step_between_logits_is_that_of_the_models_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = live(tmp_path)
    assert how._step(one, -20.0) == 16 * 2.0**-23
    monkeypatch.setattr(type(one.reader.model), "dtype", torch.bfloat16)
    assert how._step(one, 20.0) == 0.125 and how._step(one, 0.0) < 1e-30


def test_every_token_is_told_and_what_comes_next_is_the_models_own_word(tmp_path: Path) -> None:
    found = watch(live(tmp_path, arch="topk"), "<|im_start|>user\n" + TEXT, top=3)
    assert [t.position for t in found.tokens] == list(range(-1, 12))
    assert [t.why_not for t in found.tokens[:3]] == [("special", "first"), ("special",), ()]
    assert all(len(t.features) == (0 if t.why_not else 3) for t in found.tokens)
    assert all(t.active == (0 if t.why_not else 5) for t in found.tokens)
    said = reader().model(input_ids=reader().ids("<|im_start|>user\n" + TEXT)).logits[0, -1]
    likely = said.double().softmax(0)
    assert [n.id for n in found.next] == likely.topk(3).indices.tolist()
    assert [n.probability for n in found.next] == pytest.approx(likely.topk(3).values.tolist())
    assert found.target == found.next[0] and found.position == 11
    assert found.contributions is not None and found.why_none is None


def test_where_a_token_does_not_count_there_is_a_reason_instead(tmp_path: Path) -> None:
    found = watch(live(tmp_path), "the judge <|im_end|>", top=2)
    assert found.contributions is None
    assert found.why_none == "the token does not count (special)"


def test_another_word_and_another_position_can_be_asked_for(tmp_path: Path) -> None:
    one = live(tmp_path)
    found = watch(one, TEXT, top=2, position=-3, word="judge")
    assert (found.position, found.target.text) == (6, "judge")
    assert watch(one, TEXT, top=2, position=6, word="judge") == found
    assert watch(one, TEXT, top=2, word="<|im_end|>").target.text == "<|im_end|>"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"position": 9}, "9 tokens, 0 to 8"),
        ({"position": -10}, "9 tokens"),
        ({"word": "judgess"}, "did you mean"),
        ({"word": "the judge"}, "2 tokens"),
    ],
)
def test_what_can_not_be_looked_at_is_refused(
    tmp_path: Path, asked: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        watch(live(tmp_path), TEXT, top=2, **asked)


def test_a_text_that_the_model_can_not_read_at_once_is_refused_not_cut(tmp_path: Path) -> None:
    one = live(tmp_path)
    assert len(watch(one, "the " * 511, top=1).tokens) == 512
    with pytest.raises(DataError, match="512 tokens, and the model reads 511"):
        watch(one, "the " * 512, top=1)
