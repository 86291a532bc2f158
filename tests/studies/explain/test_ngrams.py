"""Patterns of tokens find what latents fire on where tokens tell it, and say so in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from explaining import World, world

from sae_cli.studies.explain.contexts import LEAST, Contexts
from sae_cli.studies.explain.counts import Counts
from sae_cli.studies.explain.ngrams import cutoff, learn
from sae_cli.studies.explain.scoring import pearson

KNOWN = ("on w3", "on w5 after w4", "on w8 after w6 w7", "at random")


@pytest.fixture(scope="module", params=[1, 2, 3])
def known(request: pytest.FixtureRequest) -> World:
    return world(*KNOWN, order=request.param)


def test_what_few_tokens_tell_is_found_and_scored_in_full(known: World, words: Any) -> None:
    units = known.units(words)
    said = ['on "w3"', 'on "w5" after "w4"', 'on "w8" after "w6 w7"']
    for needed, (unit, explanation) in enumerate(zip(units[:3], said, strict=True), 1):
        assert unit.verdict is not None and unit.verdict.detection and unit.verdict.fuzzing
        if needed <= known.spec.order:
            assert unit.explanation == explanation
            assert unit.verdict.detection.f1 == unit.verdict.fuzzing.f1 == 1
            assert unit.pearson == pytest.approx(1, abs=0.01)
        else:
            assert unit.explanation != explanation
            assert unit.verdict.detection.fp > 0 and unit.verdict.detection.f1 < 0.95


def test_what_they_do_not_tell_is_not_found(known: World, words: Any) -> None:
    unit = known.units(words)[-1]
    assert unit.verdict is not None and unit.verdict.detection is not None
    assert 0.3 < unit.verdict.detection.balanced_accuracy < 0.7
    assert unit.pearson is not None and abs(unit.pearson) < 0.1


def test_another_latents_explanation_tells_nothing(known: World, words: Any) -> None:
    units = known.units(words)
    for unit in units[1:3]:  # the first's neighbour is random
        assert unit.permuted is not None and unit.permuted.fuzzing is not None
        assert unit.permuted.fuzzing.f1 < 0.4


def test_one_who_always_says_yes_has_two_thirds(known: World, words: Any) -> None:
    for unit in known.units(words):
        assert unit.always is not None and unit.always.detection is not None
        assert unit.always.detection.f1 == pytest.approx(2 / 3)
        assert unit.always.detection.balanced_accuracy == 0.5


def test_pearson_is_that_of_all_tokens_at_once(known: World) -> None:
    contexts = known.contexts
    nodes = contexts.of(known.heldout_text.kept_suffixes())
    for j in range(len(KNOWN)):
        pattern = learn(contexts, known.train.counts.of(j))
        found = pearson(
            pattern.strength, contexts, nodes,
            known.heldout.counts.of(j), float(known.heldout.counts.squares[j]),
        )  # fmt: skip
        true = np.corrcoef(pattern.strength[nodes], known.acts[:, j].astype(np.float64))[0, 1]
        assert found == pytest.approx(true, rel=1e-9)


def test_a_latent_that_does_not_vary_has_no_correlation() -> None:
    made = world("always")
    contexts = made.contexts
    nodes = contexts.of(made.heldout_text.kept_suffixes())
    fired = made.heldout.counts.of(0)
    assert pearson(np.ones(len(contexts)), contexts, nodes, fired, 1.0) is None
    chance = learn(contexts, fired).strength + np.arange(len(contexts))
    assert pearson(chance, contexts, nodes, fired, float(made.heldout.counts.squares[0])) is None


def test_a_tokens_context_is_its_longest_known_suffix() -> None:
    base, often = 100, 3
    assert often == LEAST
    text = np.array([5 + 7 * base] * often + [5 + 8 * base] * (often - 1) + [6])
    contexts = Contexts(text, base, 2)
    of = contexts.of(np.array([5 + 7 * base, 5 + 8 * base, 6 + 7 * base, 4 + 7 * base]))
    assert [contexts.ids(int(node)) for node in of] == [[6, 4], [4], [5], []]
    assert contexts.times[of].tolist() == [often, often - 1, 1, 0]
    assert contexts.all_times[of].tolist() == [often, 2 * often - 1, 1, len(text)]


def test_chances_back_off_from_what_was_seen_to_what_was_not() -> None:
    base = 100
    text = np.array([5 + 7 * base] * 4 + [5 + 8 * base] * 2 + [6] * 4)
    contexts, counts = Contexts(text, base, 2), Counts(1)
    fired = np.array([5 + 7 * base] * 3)
    counts.add(np.zeros(3, dtype=np.int64), fired, np.array([1.0, 2.0, 3.0]))
    pattern = learn(contexts, counts.of(0))
    nodes = contexts.of(np.array([5 + 7 * base, 5 + 8 * base, 6, 9]))
    root = 3 / 10
    five, six = (3 + root) / 7, (0 + root) / 5
    wanted = [(3 + five) / 5, (0 + five) / 3, (0 + six) / 5, root]  # six begins a block
    assert pattern.chance[nodes] == pytest.approx(wanted)
    root = 6 / 10
    five = (6 + root) / 7
    assert pattern.strength[nodes[1]] == pytest.approx(five / 3)
    assert pattern.strength[nodes[3]] == pytest.approx(root)


@pytest.mark.parametrize("seed", range(5))
def test_the_cutoff_is_the_one_of_the_largest_f1(seed: int) -> None:
    dice = np.random.default_rng(seed)
    times = dice.integers(0, 20, 30).astype(float)
    hits = np.floor(times * dice.random(30))
    chance = np.round((hits + 0.1) / (times + 1), 1)  # with ties
    scores = {}
    for at in sorted(set(chance[times > 0])):
        on = chance >= at
        scores[at] = 2 * hits[on].sum() / (times[on].sum() + hits.sum())
    best = max(scores.values())
    assert cutoff(chance, times, hits) == max(at for at, f1 in scores.items() if f1 == best)


def test_sums_by_suffix_are_those_of_a_dense_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_cli.studies.explain.counts.PENDING", 50)
    dice, counts = np.random.default_rng(0), Counts(3)
    times, total, squares = np.zeros((3, 9)), np.zeros((3, 9)), np.zeros(3)
    for _ in range(20):
        latent, suffix = dice.integers(0, 3, 17), dice.integers(0, 9, 17)
        value = dice.random(17)
        counts.add(latent, suffix, value)
        np.add.at(times, (latent, suffix), 1)
        np.add.at(total, (latent, suffix), value)
        np.add.at(squares, latent, value**2)
    for j in range(3):
        fired = counts.of(j)
        assert fired.suffixes.tolist() == list(range(9))
        assert np.array_equal(fired.times, times[j])
        assert fired.total == pytest.approx(total[j])
    assert counts.squares == pytest.approx(squares)


def test_words_name_what_covers_most_and_what_is_left_out(words: Any) -> None:
    (unit,) = world("on w9 or w20, by its letter").units(words)
    assert unit.explanation in ('on "w9"; on "w20"', 'on "w20"; on "w9"')
