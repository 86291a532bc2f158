"""Scores are what features, weights and tokens give by hand, and a text's scores are its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import CHAT, TEXT, live, own, reader

from sae_cli.errors import DataError, UsageError
from sae_cli.spec.rules import Rules
from sae_cli.studies.watch import monitor as monitoring
from sae_cli.studies.watch.monitor import Monitor

RULES = [
    {"name": "one", "features": [{"feature": 4}], "threshold": 0.5},
    {"name": "two", "features": [{"feature": 4, "weight": 2.0}, {"feature": 9, "weight": -1.5}],
     "over": "mean", "threshold": 0.25},
]  # fmt: skip
SAID = {"version": 1, "sae": "x", "rules": RULES}


def monitor(tmp_path: Path, sae: dict[str, Any] | None = None, **changes: Any) -> Monitor:
    return Monitor(live(tmp_path, sae), Rules.model_validate(SAID | changes))


def test_scores_are_the_largest_and_the_mean_of_weighted_sums(tmp_path: Path) -> None:
    watch = monitor(tmp_path)
    text = CHAT + TEXT
    ids = reader().ids(text)
    seen = watch.live.read(ids)
    latents = seen.latents[seen.keep].double()
    one, two = watch.score(text).scores
    sums = 2.0 * latents[:, 4] - 1.5 * latents[:, 9]
    assert one.score == pytest.approx(float(latents[:, 4].max()))
    assert two.score == pytest.approx(float(sums.mean()))
    assert one.fired == (float(latents[:, 4].max()) > 0.5)
    assert two.fired == (float(sums.mean()) > 0.25)
    said = watch.score(text)
    assert (said.tokens, said.counted, said.windows) == (ids.shape[1] - 1, len(latents), 1)
    above = [i - 1 for i in range(1, ids.shape[1]) if seen.keep[i] and seen.latents[i, 4] > 0.5]
    assert [t.position for t in one.tokens] == above and one.tokens_fired == len(above) > 1
    words = reader().words(ids)
    for token in one.tokens:
        assert token.text == words[token.position + 1]
        assert token.activation == pytest.approx(float(seen.latents[token.position + 1, 4]))


def test_a_score_at_the_threshold_does_not_fire(tmp_path: Path) -> None:
    score = monitor(tmp_path / "a").score(TEXT).scores[0].score
    at = [RULES[0] | {"threshold": score}]
    (found,) = monitor(tmp_path / "b", rules=at).score(TEXT).scores
    assert found.score == score and found.fired is False and not found.tokens


def test_a_long_text_is_read_in_windows_and_no_token_is_left_out(tmp_path: Path) -> None:
    watch = monitor(tmp_path, max_tokens=6)
    said = watch.score(TEXT)
    ids = reader().tokens(TEXT)
    assert (said.tokens, said.counted, said.windows) == (9, 9, 2)
    parts = [
        watch.live.read(reader().behind_the_end(part)).latents[1:] for part in (ids[:5], ids[5:])
    ]
    latents = torch.cat(parts).double()
    assert said.scores[0].score == pytest.approx(float(latents[:, 4].max()))
    sums = 2.0 * latents[:, 4] - 1.5 * latents[:, 9]
    assert said.scores[1].score == pytest.approx(float(sums.mean()))
    assert [t.position for t in said.scores[0].tokens] == (
        (latents[:, 4] > 0.5).nonzero()[:, 0].tolist()
    )
    assert watch.score("the " * 1000).windows == 200


def test_without_max_tokens_a_window_is_what_the_model_reads(tmp_path: Path) -> None:
    watch = monitor(tmp_path)
    assert [watch.score("the " * n).windows for n in (511, 512)] == [1, 2]


def test_the_scores_of_a_text_are_the_same_bits_whatever_was_read_before(tmp_path: Path) -> None:
    watch = monitor(tmp_path)
    texts = [TEXT, "the judge", CHAT, "hello .", TEXT + " " + TEXT]
    forth = [watch.score(text) for text in texts]
    back = [watch.score(text) for text in reversed(texts)]
    assert forth == back[::-1]


def test_of_many_tokens_the_strongest_are_told_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = monitor(tmp_path, rules=[RULES[0] | {"threshold": 0.1}])
    whole = watch.score(TEXT + " " + CHAT).scores[0]
    monkeypatch.setattr(monitoring, "TOLD", 2)
    some = watch.score(TEXT + " " + CHAT).scores[0]
    assert some.tokens_fired == len(whole.tokens) > 2
    strongest = sorted(whole.tokens, key=lambda t: -t.activation)[:2]
    assert list(some.tokens) == sorted(strongest, key=lambda t: t.position)


def test_a_text_of_which_no_token_counts_has_no_score(tmp_path: Path) -> None:
    said = monitor(tmp_path).score("<|im_start|> <|im_end|>")
    assert said.counted == 0
    assert [(s.score, s.fired) for s in said.scores] == [(None, None)] * 2


def test_a_rule_without_threshold_has_a_score_alone(tmp_path: Path) -> None:
    (found,) = monitor(tmp_path, rules=[RULES[0] | {"threshold": None}]).score(TEXT).scores
    assert found.score is not None and found.fired is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rules": [RULES[0] | {"features": [{"feature": 24}]}]}, "rule one: .* no feature 24"),
        ({"max_tokens": 513}, "the model reads 512 tokens at once"),
    ],
)
def test_what_the_sae_or_the_model_can_not_do_is_refused(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        monitor(tmp_path, **changes)


def test_chats_are_read_as_the_template_writes_them(tmp_path: Path) -> None:
    watch = monitor(tmp_path, own(), chat=True)
    asked = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert watch.text_of("hello") == asked
    assert watch.text_of([{"role": "user", "content": "hello", "more": 1}]) == asked
    told = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}]
    assert watch.text_of(told) == asked + "hello<|im_end|>\n"


@pytest.mark.parametrize("given", [None, 5, True, [], {}, [{"role": "user"}], ["hello"], [1]])
def test_what_is_no_text_and_no_chat_is_refused(tmp_path: Path, given: Any) -> None:
    for chat in (False, True):
        with pytest.raises(DataError, match=r"^text is "):
            monitor(tmp_path / str(chat), chat=chat).text_of(given)
