"""What the study of refusal counts, against plain loops in float64."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from sae_cli.studies.steer import detect, tell
from sae_cli.studies.steer.replies import (
    distinct,
    is_refusal,
    refusing_tokens,
    scored,
    stored,
)
from sae_cli.studies.steer.speak import gap

DICE = np.random.default_rng(0)
A = DICE.gamma(1.0, 2.0, (9, 4)) * (DICE.random((9, 4)) < 0.6)
B = DICE.gamma(1.0, 1.0, (13, 4)) * (DICE.random((13, 4)) < 0.5)
C = DICE.gamma(1.0, 1.5, (5, 4))
A[:, 3], B[:, 3] = 0.0, 0.0  # a feature that never fires


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_how_features_tell_the_kinds_apart() -> None:
    for i in range(4):
        a, b = A[:, i].tolist(), B[:, i].tolist()
        fires = mean([float(v != 0) for v in a]) - mean([float(v != 0) for v in b])
        squares = sum((v - mean(a)) ** 2 for v in a) + sum((v - mean(b)) ** 2 for v in b)
        s = math.sqrt(squares / (len(a) + len(b) - 2))
        won = mean([1.0 if x > y else 0.5 if x == y else 0.0 for x, y in product(a, b)])
        assert detect.difference(A, B)[i] == pytest.approx(mean(a) - mean(b))
        assert detect.rate(A, B)[i] == pytest.approx(fires)
        assert detect.cohen_d(A, B)[i] == pytest.approx((mean(a) - mean(b)) / s if s else 0.0)
        assert detect.auroc(A, B)[i] == pytest.approx(won)


def test_what_a_feature_does_on_matched_prompts_is_taken_off_its_score() -> None:
    cosines = np.array([0.5, -0.25, 1.0, 1.0])
    for penalty in (0.0, 0.5, 1.0):
        own = []
        for i in range(4):
            a, b, c = (mean(x[:, i].tolist()) for x in (A, B, C))
            spill = min(max(c - b, min(a - b, 0)), max(a - b, 0))
            own.append((a - b - penalty * spill) * cosines[i])
        total = sum(map(abs, own))
        wanted = [value / total for value in own]
        assert detect.scores(A, B, C, cosines, penalty) == pytest.approx(wanted)
    assert detect.scores(A, A, A, cosines, 1.0) == pytest.approx(np.zeros(4))


def test_the_gap_is_that_of_the_probabilities_and_keeps_its_ends() -> None:
    logits = torch.tensor(DICE.normal(size=(5, 11)) * 3)
    for row, found in zip(logits.tolist(), gap(logits, torch.tensor([2, 7])), strict=True):
        whole = sum(math.exp(v) for v in row)
        p = (math.exp(row[2]) + math.exp(row[7])) / whole
        assert float(found) == pytest.approx(math.log(p) - math.log(1 - p))
    far = torch.tensor([[0.0, 90.0], [90.0, 0.0]])
    assert gap(far, torch.tensor([0])).tolist() == pytest.approx([-90.0, 90.0])


def test_p_values_count_the_chosen_set_itself() -> None:
    assert tell.p_value(0.9, [0.0] * 19) == pytest.approx(1 / 20)
    assert tell.p_value(0.5, [0.5, 0.2, 0.9]) == pytest.approx(3 / 4)


def test_intervals_draw_prompts_again() -> None:
    figure = tell.mean("m", np.array([1.0, 0.0] * 20))
    assert figure.value == 0.5 and figure.n == figure.docs == 40
    assert figure.low is not None and figure.high is not None
    wide = 1.96 * math.sqrt(0.25 / 40)
    assert figure.high - figure.low == pytest.approx(2 * wide, rel=0.15)
    few = tell.mean("m", np.ones(5))
    assert (few.value, few.low) == (1.0, None)


def test_replies_that_repeat_themselves_have_few_different_pairs() -> None:
    ids = [1, 2, 1, 2, 1, 2, 3]
    assert distinct(ids) == len({*pairwise(ids)}) / 6 == 0.5
    assert distinct([4]) == distinct([]) == 1.0
    assert distinct([1, 1, 1, 1], 3) == 0.5


def test_a_refusal_holds_a_phrase_whatever_its_letters_and_apostrophes() -> None:
    phrases = ("I can't", "as an AI")
    assert is_refusal("Well, I  CAN’T do that.", phrases)
    assert is_refusal("As an ai\nmodel ...", phrases)
    assert not is_refusal("I can, and here is how", phrases)


def test_the_tokens_of_refusals_are_likely_there_and_not_in_answers() -> None:
    refusing = np.array([0.5, 0.3, 0.15, 0.04, 0.01])
    answers = np.array([0.0, 0.2, 0.05, 0.0, 0.75])
    assert refusing_tokens(refusing, answers) == {0: 0.5, 2: 0.15}


def test_replies_to_harmful_prompts_are_kept_in_words_only_when_asked() -> None:
    class Words:
        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return " ".join(["i cannot help with that .", "sure ,"][i] for i in ids)

    said = scored(Words(), [(0,), (1, 1)], ("i cannot",), builtin=False)
    assert said.refused.tolist() == [1.0, 0.0] and said.formed is None
    for keep in (False, True):
        kept = stored(said, ["secret one", "secret two"], np.array([2.0, -1.0]), keep=keep)
        assert ("secret" in str(kept)) is keep and ("sure" in str(kept)) is keep
        assert [each["refused"] for each in kept] == [True, False]
        assert all(len(each["reply_sha256"]) == 64 for each in kept)
