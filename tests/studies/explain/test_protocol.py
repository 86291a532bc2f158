"""Which windows are judged, what is marked in them, and how answers are counted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from explaining import CONTEXT, FIRST, WINDOW, world

from sae_cli.studies.explain.figures import mean_figure
from sae_cli.studies.explain.ngrams import Pattern
from sae_cli.studies.explain.protocol import FEWEST, MARKED, Examples, Tally, binned, examples
from sae_cli.studies.explain.scoring import apply
from sae_cli.studies.explain.windows import Windows, hashed


def test_answers_are_counted_as_by_hand() -> None:
    said = np.array([1, 1, 1, 0, 0, 0, 0, 1], dtype=bool)
    true = np.array([1, 1, 0, 1, 0, 0, 0, 1], dtype=bool)
    found = Tally.of(said, true)
    assert found == Tally(tp=3, fp=1, fn=1, tn=3)
    assert found.scores() == {
        "f1": 0.75, "balanced_accuracy": 0.75, "precision": 0.75, "recall": 0.75,
    }  # fmt: skip
    skewed = Tally(tp=1, fp=3, fn=1, tn=1)
    assert skewed.precision == 0.25 and skewed.recall == 0.5
    assert skewed.f1 == pytest.approx(1 / 3) and skewed.balanced_accuracy == 0.375


def test_who_affirms_nothing_has_no_precision_and_an_f1_of_nought() -> None:
    silent = Tally(tp=0, fp=0, fn=4, tn=4)
    assert silent.precision is None and silent.f1 == 0 and silent.balanced_accuracy == 0.5


@pytest.mark.parametrize(("there", "wanted", "bins"), [(100, 50, 10), (53, 50, 10), (7, 7, 10),
                                                       (200, 5, 10), (31, 20, 7)])  # fmt: skip
def test_bins_have_equal_counts_and_give_equal_shares(there: int, wanted: int, bins: int) -> None:
    largest = np.random.default_rng(0).random(there).astype(np.float32) + 0.1
    chosen, ends = binned(largest, wanted, bins)
    assert len(set(chosen.tolist())) == len(chosen) == wanted
    assert sum(take for *_, take in ends) == wanted
    assert min(low for low, *_ in ends) == largest.min() > 0
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))
    for low, high, take in ends:
        inside = largest[chosen[(largest[chosen] >= low) & (largest[chosen] <= high)]]
        assert len(inside) == take
    takes = [take for *_, take in ends]
    assert max(takes) - min(takes) <= 1 or there < wanted + bins


def test_half_of_the_windows_have_the_latent_and_right_marks_are_its_tokens() -> None:
    made = world("on w9 or w20, by its letter", "on w5 after w4")
    for j, latent in enumerate(made.heldout.latents):
        found = examples(made.heldout_text, made.heldout.windows, j, 50, 10, 0)
        assert isinstance(found, Examples)
        assert len(found.numbers) == 100 and found.fires.sum() == 50
        tokens, keep, _ = made.heldout_text.windows(found.shown)
        for row, kept, marks, right in zip(tokens, keep, found.marks, found.right, strict=True):
            acts = 0.5 * (row == FIRST + 9) + 3.0 * (row == FIRST + 20)
            if latent == 1:
                acts = 1.5 * (row == FIRST + 5)  # its first token may follow a w4 that is outside
            acts *= kept
            if right and latent == 0:
                assert np.array_equal(marks, acts >= MARKED * acts.max())
            elif right:
                assert marks.any() and (acts[marks] > 0).all()
            elif latent == 0:
                assert marks.any() and (acts[marks] == 0).all() and kept[marks].all()
        for numbers, fires in ((found.numbers[found.fires], True), (found.numbers, None)):
            row, kept, _ = made.heldout_text.windows(numbers)
            has = (((row == FIRST + 9) | (row == FIRST + 20)) & kept).any(1)
            if latent == 0 and fires:
                assert has.all()
            elif latent == 0:
                assert np.array_equal(has, found.fires)


@pytest.mark.parametrize(("rule", "said"), [("never", "with"), ("always", "without")])
def test_a_latent_of_too_few_windows_has_none_and_says_why(rule: str, said: str) -> None:
    made = world(rule)
    found = examples(made.heldout_text, made.heldout.windows, 0, 50, 10, 0)
    assert found == f"0 held-out windows {said} the latent, fewer than {FEWEST}"


def test_a_pattern_is_right_about_marks_if_half_of_them_are_its_tokens() -> None:
    """Ten windows; the pattern fires on w3 alone."""
    made = world("on w3")
    contexts = made.contexts
    node = contexts.of(np.array([FIRST + 3 + 1 + made.train_text.base]))[0]  # after no known token
    chance = np.zeros(len(contexts))
    chance[node] = 1
    for each in contexts.children(node):
        chance[each] = 1
    pattern = Pattern(chance, chance, chance, 0.5)
    found = examples(made.heldout_text, made.heldout.windows, 0, 5, 1, 0)
    assert isinstance(found, Examples)
    tokens, keep, _ = made.heldout_text.windows(found.shown)
    own = (tokens == FIRST + 3) & keep
    for extra, said in ((1, True), (2, False)):  # one of two marks, one of three
        marks = np.zeros_like(found.marks)
        for row in range(len(marks)):
            others = np.flatnonzero(keep[row] & ~own[row])[: extra * own[row].sum()]
            marks[row] = own[row]
            marks[row, others] = True
        changed = Examples(found.numbers, found.fires, found.shown, marks, found.right, found.bins)
        verdict = apply(pattern, contexts, made.heldout_text, changed)
        assert verdict.fuzzing is not None
        assert verdict.fuzzing.recall == verdict.fuzzing.fp / 5 == float(said)


def test_samples_do_not_depend_on_batches() -> None:
    one, other = (world("at random", "on w3", per=per) for per in (16, 50))
    for j in range(2):
        for a, b in ((one.train, other.train), (one.heldout, other.heldout)):
            for left, right in zip(a.windows.with_it(j), b.windows.with_it(j), strict=True):
                assert np.array_equal(left, right)
            assert np.array_equal(a.windows.without_it(j), b.windows.without_it(j))


def test_a_sample_is_of_the_lowest_hashes_of_all_windows_that_fire() -> None:
    dice = np.random.default_rng(1)
    latents, numbers = np.array([4, 7]), np.arange(300)
    values = (dice.random((300, WINDOW, 2)) * (dice.random((300, 1, 2)) < 0.5)).astype(np.float32)
    windows = Windows(latents, WINDOW, seed=3, held=40)
    for start in range(0, 300, 64):
        some = slice(start, start + 64)
        windows.add(numbers[some], values[some], np.ones(len(numbers[some]), dtype=bool))
    rank = hashed(3, numbers, latents)
    for j in range(2):
        fires = values[:, :, j].max(1) > 0
        order = np.argsort(rank[:, j])
        found, acts = windows.with_it(j)
        assert found.tolist() == [i for i in order if fires[i]][:40]
        assert np.array_equal(acts, values[found, :, j])
        assert windows.without_it(j).tolist() == [i for i in order if not fires[i]][:40]
        assert windows.fired[j] == fires.sum()


def test_what_is_held_does_not_grow_with_the_text() -> None:
    windows = Windows(np.arange(3), WINDOW, seed=0, held=10)
    size = None
    for start in range(0, 400, 100):
        values = np.ones((100, WINDOW, 3), dtype=np.float32)
        windows.add(np.arange(start, start + 100), values, np.ones(100, dtype=bool))
        held = sum(
            array.nbytes
            for part in vars(windows).values()
            for array in (part.values() if isinstance(part, dict) else [part])
            if isinstance(array, np.ndarray)
        )
        assert size is None or held == size
        size = held


def test_windows_are_whole_pieces_of_blocks_with_their_documents() -> None:
    made = world("on w3")
    text, per = made.heldout_text, CONTEXT // WINDOW
    for number in (0, 5, 17):
        tokens, keep, suffixes = text.windows(np.array([number]))
        row, start = number // per, number % per * WINDOW
        there = slice(start, start + WINDOW)
        assert np.array_equal(tokens[0], text.tokens[row, there])
        assert np.array_equal(keep[0], text.keep[row, there])
        assert np.array_equal(suffixes[0], text.suffixes(text.tokens)[row, there])
        assert text.documents_of(np.array([number])) == set(text.documents[row, there].tolist())


def test_a_figure_is_the_mean_of_the_latents_that_have_one() -> None:
    values = [0.0, 1.0, None, 0.5, *[0.25] * 6]
    found = mean_figure("x_v1", values, "none", control="random", seed=3)
    there = np.array([each for each in values if each is not None])
    assert found.value == pytest.approx(there.mean()) and found.n == 9
    assert (found.control, found.seed, found.reason) == ("random", 3, None)
    draws = np.random.default_rng(5).integers(9, size=(100_000, 9))  # another generator's
    assert [found.low, found.high] == pytest.approx(
        np.quantile(there[draws].mean(1), [0.025, 0.975]), abs=0.02
    )
    few = mean_figure("x_v1", [0.5] * 7 + [None], "none")
    assert few.value == 0.5 and few.low is None
    nothing = mean_figure("x_v1", [None, None], "why")
    assert (nothing.value, nothing.reason, nothing.n) == (None, "why", 0)


def test_seeds_change_what_is_drawn() -> None:
    one, other = (hashed(seed, np.arange(50), np.arange(2)) for seed in (0, 1))
    assert not np.array_equal(np.argsort(one, axis=0), np.argsort(other, axis=0))
    assert not np.array_equal(np.argsort(one[:, 0]), np.argsort(one[:, 1]))
