"""Sources are mixed by weight, repeated only where asked, and named when they run dry."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from texts import corpus, same, streams

from sae_cli.errors import DataError
from sae_cli.lm import masks
from sae_cli.lm.pack import Packer
from sae_cli.spec.stages import DataSpec, Source


def test_sources_mix_by_weight_and_their_counts_are_kept(two, words):
    groups = list(Packer(two, words, group=4).blocks())
    state = groups[-1].state
    a, b = state.sources
    used = [sum(source.tokens.values()) for source in (a, b)]
    assert used[0] / used[1] == pytest.approx(3.0, rel=0.1)
    for part, size in (("train", 188 * 16), ("heldout", 44 * 16)):
        tokens, document, position = streams(groups, part)
        firsts = tokens[position == 0]
        assert len(np.unique(document)) == len(firsts)
        assert [a.documents[part], b.documents[part]] == [np.sum(firsts == n) for n in (11, 12)]
        assert a.tokens[part] + b.tokens[part] == size
        reasons = np.concatenate([g.reasons.ravel() for g in groups if g.part == part])
        assert a.counted[part] + b.counted[part] == np.sum(reasons == 0)
        assert state.reasons[part] == {
            "special": np.sum(reasons & masks.SPECIAL > 0),
            "first": size // 16,
            "role": 0,
        }


def test_three_weights_are_honoured_to_within_one_document(tmp_path, words):
    weights, longest = (5.0, 1.0, 0.5), 60
    sources = []
    for number, weight in enumerate(weights, 1):
        corpus(tmp_path / f"{number}.jsonl", number, documents=600, longest=longest)
        sources.append(Source(path=str(tmp_path / f"{number}.jsonl"), weight=weight))
    data = DataSpec(sources=tuple(sources), tokens=8000, heldout_tokens=800, context=16)
    *_, last = Packer(data, words, group=4).blocks()
    used = [sum(source.tokens.values()) for source in last.state.sources]
    for tokens, weight in zip(used, weights, strict=True):
        assert abs(tokens - sum(used) * weight / sum(weights)) <= longest + 1


def test_every_moment_of_the_mix_takes_from_the_source_furthest_behind(two, words):
    groups = list(Packer(two, words, group=1).blocks())
    for g in groups:
        a, b = g.state.sources
        assert abs(sum(a.tokens.values()) / 3.0 - sum(b.tokens.values())) <= 92


def test_a_dry_source_is_named_with_what_is_filled_and_what_to_do(tmp_path, words):
    corpus(tmp_path / "a.jsonl", 1, documents=30)
    data = DataSpec(
        sources=(Source(path=str(tmp_path / "a.jsonl")),),
        tokens=100_000,
        heldout_tokens=64,
        context=16,
    )
    with pytest.raises(DataError) as caught:
        list(Packer(data, words, group=4).blocks())
    said = str(caught.value)
    assert "a.jsonl ran dry after" in said
    assert "of 100,000 train tokens (data.tokens)" in said
    assert "of 64 heldout tokens (data.heldout_tokens)" in said
    assert "repeat: true" in said


def repeating(path, **more):
    amounts = {"tokens": 4000, "heldout_tokens": 48, "context": 16} | more
    return DataSpec(sources=(Source(path=str(path), repeat=True),), **amounts)


def test_repetition_fills_training_and_never_the_held_out_part(tmp_path, words):
    texts = corpus(tmp_path / "a.jsonl", 1, documents=60, longest=30)
    data = repeating(tmp_path / "a.jsonl")
    groups = list(Packer(data, words, group=4).blocks())
    tokens, document, _ = streams(groups, "train")
    runs = [tuple(tokens[list(r)]) for _, r in groupby(range(len(tokens)), lambda i: document[i])]
    assert max(runs.count(run) for run in set(runs)) > 2
    tokens, document, _ = streams(groups, "heldout")
    runs = [tuple(tokens[list(r)]) for _, r in groupby(range(len(tokens)), lambda i: document[i])]
    assert len(set(runs)) == len(runs) <= len(texts)
    for group in groups[::5]:
        rest = list(Packer(data, words, group=4).blocks(group.state))
        at = next(i for i, g in enumerate(groups) if g is group)
        assert all(same(a, b) for a, b in zip(rest, groups[at + 1 :], strict=True))


def test_repetition_that_can_never_fill_is_an_error_and_no_endless_loop(tmp_path, words):
    corpus(tmp_path / "a.jsonl", 1, documents=60, longest=30)
    with pytest.raises(DataError, match="held-out documents are never repeated"):
        list(Packer(repeating(tmp_path / "a.jsonl", heldout_tokens=3000), words, group=4).blocks())
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n{"text": "  "}\n')
    with pytest.raises(DataError, match="ran dry after 0 tokens"):
        list(Packer(repeating(tmp_path / "b.jsonl"), words, group=4).blocks())


def test_a_source_that_changed_since_the_state_is_refused(tmp_path, words):
    path = tmp_path / "a.jsonl"
    corpus(path, 1, longest=200)
    data = repeating(path)
    state = next(g.state for g in Packer(data, words, group=2).blocks() if g.state.waiting["train"])
    path.write_text("\n".join(['{"text": "w1"}'] * 400))
    with pytest.raises(DataError, match="has changed since"):
        next(Packer(data, words, group=2).blocks(state))
