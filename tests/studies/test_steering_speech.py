"""Replies under a push: the same alone and in company, with a cache and without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from studying import fresh
from torch import Tensor

from sae_cli.lm.splice import forward_logits
from sae_cli.lm.tiny.grammar import prompts
from sae_cli.lm.tiny.measure import generate
from sae_cli.spec.steering import SteerAt
from sae_cli.studies.bench import Bench
from sae_cli.studies.kept import Kept
from sae_cli.studies.steer.chat import Asked, asked, rendered
from sae_cli.studies.steer.edits import Push, add, nothing
from sae_cli.studies.steer.harm import harm
from sae_cli.studies.steer.reading import read
from sae_cli.studies.steer.speak import Speaker

R = torch.tensor([5, 9, 40])


def speaking(bench: Bench) -> Speaker:
    """One that was never asked before."""
    return Speaker(bench, Kept(fresh(bench).scratch))


@pytest.fixture(scope="module")
def some(bench: Bench) -> list[Asked]:
    both = [p.text for harmful in (True, False) for p in prompts("val", harmful)[:14]]
    return asked(bench.tokenizer, both)


@pytest.fixture(scope="module")
def push(bench: Bench, some: list[Asked]) -> Tensor:
    found = read(bench, some)
    v = found.last[:14].mean(0) - found.last[14:].mean(0)
    return 2 * v


def test_a_prompt_is_what_the_template_writes_and_its_words_are_the_instruction(
    bench: Bench, some: list[Asked]
) -> None:
    text = prompts("val", True)[0].text
    ids = bench.tokenizer(rendered(bench.tokenizer, text), add_special_tokens=False)["input_ids"]
    assert some[0].ids == tuple(ids)
    inside = some[0].ids[some[0].start : some[0].stop]
    assert bench.tokenizer.decode(inside) == text


def test_unpushed_replies_are_those_of_transformers(bench: Bench, some: list[Asked]) -> None:
    (ours,) = speaking(bench).replies(some, [nothing()], 20)
    both = [p for harmful in (True, False) for p in prompts("val", harmful)[:14]]
    theirs = generate(bench.model, bench.tokenizer, both, max_new_tokens=20)
    assert [bench.tokenizer.decode(list(ids), skip_special_tokens=True) for ids in ours] == theirs


def test_nobody_sees_who_else_is_in_the_batch(
    bench: Bench, some: list[Asked], push: Tensor
) -> None:
    pushes = [nothing(), add(push), add(-push), add(push, "all")]
    speaker, alone = speaking(bench), speaking(replace(bench, batch_tokens=1))
    together = speaker.replies(some, pushes, 12)
    assert together == alone.replies(some, pushes, 12)
    assert together[1] == speaker.replies(some[::-1], [add(push)], 12)[0][::-1]
    gaps, one = speaker.gaps(some, pushes, R), alone.gaps(some, pushes, R)
    assert gaps == pytest.approx(one, abs=0.3)  # the model's dtype has 8 bits


@pytest.mark.parametrize("at", ["last", "generated", "all"])
def test_replies_with_a_cache_are_those_of_whole_forwards(
    at: SteerAt, bench: Bench, some: list[Asked], push: Tensor
) -> None:
    from sae_cli.lm.load import load_model
    from sae_cli.lm.sites import find_tap
    from sae_cli.spec.stages import ModelSpec

    model = load_model(ModelSpec(builtin="tiny", dtype="float32"), torch.device("cpu"))
    exact = replace(bench, model=model, tap=find_tap(model, bench.tap.layer, bench.tap.site))
    speaker = speaking(exact)
    (found,) = speaker.replies(some[-3:], [add(push, at)], 8)
    for one, reply in zip(some[-3:], found, strict=True):
        ids = list(one.ids)
        for token in reply:

            def edit(x: Tensor, n: int = len(one.ids)) -> Tensor:
                new = x.clone()
                where = {"last": slice(n - 1, n), "generated": slice(n, None),
                         "all": slice(1, None)}[at]  # fmt: skip
                new[:, where] += push
                return new

            logits = forward_logits(model, torch.tensor([ids]), tap=exact.tap, edit=edit)
            assert int(logits[0, -1].argmax()) == token
            ids.append(token)


def test_the_gap_is_read_off_the_last_prompt_token_of_a_whole_forward(
    bench: Bench, some: list[Asked], push: Tensor
) -> None:
    found = speaking(bench).gaps(some[:2], [Push(lambda x: push.expand_as(x), "last")], R)[0]
    for one, value in zip(some[:2], found, strict=True):

        def edit(x: Tensor) -> Tensor:
            new = x.float().clone()
            new[:, -1] += push
            return new

        logits = forward_logits(bench.model, torch.tensor([one.ids]), tap=bench.tap, edit=edit)
        p = logits[0, -1].double().softmax(-1)[R].sum()
        assert value == pytest.approx(float(p.log() - (1 - p).log()), abs=0.05)


def test_features_are_read_at_the_places_and_never_at_the_first_position(
    bench: Bench, some: list[Asked]
) -> None:
    (sae,) = bench.saes.values()
    found = read(bench, some)
    assert found.places[0] == "last" and found.places[-2:] == ["mean", "max"]
    special = set(bench.tokenizer.all_special_ids)
    for number in (0, 7, 20):
        one = some[number]
        acts = bench.acts(torch.tensor([one.ids]))[0]
        f = sae.encode(acts).float()
        kept = [i for i in range(one.start, one.stop) if one.ids[i] not in special]
        assert kept and kept[0] >= 1
        for place in found.places:
            values = found.features(sae, place)[number]
            if place == "last":
                wanted = f[-1]
            elif place == "mean":
                wanted = f[kept].mean(0)
            elif place == "max":
                wanted = f[kept].max(0).values
            else:
                at = int(place.removeprefix("template"))
                wanted = f[at]
                assert one.ids[at] not in special
            assert torch.allclose(values, wanted, atol=0.05), place


def test_harm_to_text_is_that_of_whole_forwards(bench: Bench, push: Tensor) -> None:
    (found, none) = harm(bench, Kept(fresh(bench).scratch), [add(push), nothing()], 512)
    kl, rise, count = 0.0, 0.0, 0
    for seen in bench.text("heldout", 512):

        def edit(x: Tensor, keep: Tensor = seen.keep) -> Tensor:
            return x.float() + push * keep[..., None]

        clean = forward_logits(bench.model, seen.tokens).double().log_softmax(-1)
        new = forward_logits(bench.model, seen.tokens, tap=bench.tap, edit=edit)
        pushed = new.double().log_softmax(-1)
        for row in range(len(seen.tokens)):
            for at in range(seen.tokens.shape[1] - 1):
                if seen.keep[row, at]:
                    p, q = clean[row, at], pushed[row, at]
                    follows = int(seen.tokens[row, at + 1])
                    kl += float((p.exp() * (p - q)).sum())
                    rise += float(p[follows] - q[follows])
                    count += 1
    assert found.n.sum() == count
    assert found.kl.sum() == pytest.approx(kl, rel=1e-3)
    assert found.ce.sum() == pytest.approx(rise, rel=1e-3)
    assert none.kl.sum() == none.ce.sum() == 0


def test_an_answer_to_one_push_is_never_given_to_another(
    bench: Bench, some: list[Asked], push: Tensor
) -> None:
    """Not to one who asks with the same prompts at the same place, as after a shortlist that came
    out in another order."""
    folder = fresh(bench).scratch

    def asked_with(v: Tensor) -> None:
        speaker = Speaker(bench, Kept(folder))
        found = speaker.gaps(some[:4], [add(v)], R), speaker.replies(some[:4], [add(v)], 4)
        assert (found[0] == speaking(bench).gaps(some[:4], [add(v)], R)).all()
        assert found[1] == speaking(bench).replies(some[:4], [add(v)], 4)

    for v in (push, -push, push):
        asked_with(v)
