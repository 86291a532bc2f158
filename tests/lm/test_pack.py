"""Blocks are a pure function of the spec, resumable anywhere, and never leak held-out text."""

from __future__ import annotations

import copy
import json
import random
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from sae_cli.errors import DataError, ModelError
from sae_cli.lm import masks
from sae_cli.lm.encode import end_of_text, heldout_share, part_of, special_ids
from sae_cli.lm.pack import Packer, PackState
from sae_cli.lm.sources import RawDocument
from sae_cli.spec.stages import DataSpec, MaskSpec, Source

EOS = 1


def corpus(path, seed, documents=400, longest=40):
    """Random documents of w-words; the word w{seed} starts each, to tell sources apart."""
    dice = random.Random(seed)
    texts = [
        " ".join([f"w{seed}"] + [f"w{dice.randrange(100, 500)}" for _ in range(length)])
        for length in (dice.randrange(longest) for _ in range(documents))
    ]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return texts


@pytest.fixture
def two(tmp_path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    corpus(a, 1)
    corpus(b, 2, longest=90)
    return DataSpec(
        sources=(Source(path=str(a), weight=3.0), Source(path=str(b))),
        tokens=3000,
        heldout_tokens=700,
        context=16,
        seed=4,
    )


def streams(groups, part):
    """All tokens, document numbers and positions of one part, in order."""
    of_part = [g for g in groups if g.part == part]
    return tuple(
        np.concatenate([getattr(g, field).ravel() for g in of_part])
        for field in ("tokens", "document", "position")
    )


def ids(words, text):
    return [*words(text, add_special_tokens=False)["input_ids"], EOS]


def same(a, b):
    fields = ("tokens", "document", "position", "reasons")
    return (a.part, a.first, a.state) == (b.part, b.first, b.state) and all(
        np.array_equal(getattr(a, f), getattr(b, f)) for f in fields
    )


def test_each_part_has_exactly_its_whole_blocks(two, words):
    groups = list(Packer(two, words, group=5).blocks())
    for part, blocks in (("train", 188), ("heldout", 44)):
        sizes = [len(g.tokens) for g in groups if g.part == part]
        assert sizes == [5] * (blocks // 5) + [blocks % 5]
        assert [g.first for g in groups if g.part == part] == list(range(0, blocks, 5))
    for g in groups:
        assert (g.tokens.dtype, g.document.dtype) == (np.int32, np.int64)
        assert (g.position.dtype, g.reasons.dtype) == (np.int32, np.uint8)
        assert g.tokens.shape == g.document.shape == g.position.shape == g.reasons.shape
        assert g.tokens.shape[1] == 16


def test_documents_stand_one_behind_the_other_closed_by_one_end_token(two, words):
    groups = list(Packer(two, words, group=5).blocks())
    known = {}
    for source in two.sources:
        for line in Path(source.path).read_text(encoding="utf-8").splitlines():
            text = json.loads(line)["text"]
            known[tuple(ids(words, text))] = text
    for part in ("train", "heldout"):
        tokens, document, position = streams(groups, part)
        runs = [list(run) for _, run in groupby(range(len(tokens)), key=lambda i: document[i])]
        assert len({document[run[0]] for run in runs}) == len(runs)
        assert sorted(document) == list(document)
        for run in runs[:-1]:
            assert tuple(tokens[run]) in known
            assert list(position[run]) == list(range(len(run)))
        last = tuple(tokens[runs[-1]])
        assert any(whole[: len(last)] == last for whole in known)


def test_no_text_is_on_both_sides_even_if_it_comes_twice(tmp_path, words):
    texts = corpus(tmp_path / "a.jsonl", 1, documents=300)
    (tmp_path / "b.jsonl").write_text((tmp_path / "a.jsonl").read_text())
    sources = tuple(Source(path=str(tmp_path / name)) for name in ("a.jsonl", "b.jsonl"))
    data = DataSpec(sources=sources, tokens=6000, heldout_tokens=1500, context=16)
    groups = list(Packer(data, words, group=4).blocks())
    found = {}
    for part in ("train", "heldout"):
        tokens, document, _ = streams(groups, part)
        runs = groupby(range(len(tokens)), key=lambda i: document[i])
        found[part] = {tuple(tokens[list(run)]) for _, run in runs}
    assert not found["train"] & found["heldout"]
    share = heldout_share(data)
    for text in texts:
        part = part_of(RawDocument(0, 0, text, None, ""), data.seed, share)
        other = "train" if part == "heldout" else "heldout"
        assert tuple(ids(words, text)) not in found[other]


def test_the_split_hangs_on_seed_and_content_alone():
    def part(text, seed, **more):
        return part_of(
            RawDocument(**({"index": 0, "round": 0} | more), text=text, messages=None, where=""),
            seed,
            0.3,
        )

    texts = [f"text {i}" for i in range(2000)]
    parts = [part(t, 0) for t in texts]
    assert parts == [part(t, 0, index=9, round=3) for t in texts]
    assert parts != [part(t, 1) for t in texts]
    assert 500 < parts.count("heldout") < 700


def test_texts_that_differ_in_spaces_or_compatible_characters_are_never_parted():
    def parts(*texts):
        plain = {part_of(RawDocument(0, 0, text, None, ""), 0, 0.5) for text in texts}
        chats = [({"role": "user", "content": text},) for text in texts]
        return plain, {part_of(RawDocument(0, 0, None, chat, ""), 0, 0.5) for chat in chats}

    for n in range(50):
        for found in parts(f"a fit {n}", f" a  fit\n{n} ", f"a\u00a0\ufb01t {n}"):
            assert len(found) == 1


def test_the_held_out_share_fills_and_does_not_starve():
    def share(tokens, heldout, **source):
        sources = (Source(builtin="tiny", **source),)
        return heldout_share(DataSpec(sources=sources, tokens=tokens, heldout_tokens=heldout))

    assert share(10**9, 32_768) == 0.01
    assert share(10**9, 32_768, repeat=True) == 0.1
    assert share(400_000, 32_768) == pytest.approx(1.25 * 32_768 / 432_768)
    assert share(1000, 1000) == 0.5
    assert share(1000, 3000) == 0.75


def test_resuming_from_every_state_gives_exactly_the_rest(two, words):
    packer = Packer(two, words, group=3)
    groups = list(packer.blocks())
    assert len(groups) == 63 + 15
    for i, group in enumerate(groups):
        state = PackState.model_validate(
            json.loads(json.dumps(group.state.model_dump(mode="json")))
        )
        assert state == group.state
        rest = list(Packer(two, words, group=3).blocks(state))
        assert len(rest) == len(groups) - i - 1
        assert all(same(a, b) for a, b in zip(rest, groups[i + 1 :], strict=True)), i


def test_the_group_size_moves_no_token(two, words):
    small, large = (list(Packer(two, words, group=n).blocks()) for n in (1, 64))
    for part in ("train", "heldout"):
        for a, b in zip(streams(small, part), streams(large, part), strict=True):
            assert np.array_equal(a, b)


def test_resuming_inside_a_long_document_goes_on_inside_it(tmp_path, words):
    corpus(tmp_path / "a.jsonl", 1, documents=40, longest=2000)
    data = DataSpec(
        sources=(Source(path=str(tmp_path / "a.jsonl")),),
        tokens=9000,
        heldout_tokens=400,
        context=10,
    )
    groups = list(Packer(data, words, group=7).blocks())
    middles = [g for g in groups[:-1] if any(p.position > 0 for p in g.state.waiting["train"])]
    assert len(middles) > 50
    for group in middles[::9]:
        (following, *_) = Packer(data, words, group=7).blocks(group.state)
        assert same(following, groups[groups.index(group) + 1])


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


def test_reasons_mark_special_tokens_and_first_positions(two, words):
    data = two.model_copy(update={"mask": MaskSpec(first_positions=2)})
    for g in Packer(data, words, group=6).blocks():
        assert ((g.reasons & masks.SPECIAL > 0) == (g.tokens == EOS)).all()
        assert ((g.reasons & masks.FIRST > 0) == (np.arange(16) < 2)).all()
        assert not (g.reasons & masks.OUTLIER).any()


def test_a_mask_listens_only_to_the_reasons_that_it_names():
    reasons = np.arange(16, dtype=np.uint8).reshape(2, 8)
    free = MaskSpec(special=False, first_positions=0, outlier_multiple=None)
    assert np.array_equal(masks.keep(reasons, free), reasons < masks.ROLE)
    assert masks.keep(reasons, MaskSpec()).ravel().tolist() == [True] + [False] * 15
    only = MaskSpec(special=False, first_positions=0, outlier_multiple=5.0)
    assert np.array_equal(masks.keep(reasons, only), reasons < masks.OUTLIER)


def test_plain_text_is_wrapped_as_a_user_turn_if_asked(tmp_path, words):
    (tmp_path / "a.txt").write_text("w5 w6\n\n" * 50)
    source = Source(path=str(tmp_path / "a.txt"), repeat=True)
    data = DataSpec(sources=(source,), tokens=70, heldout_tokens=1, context=7, chat_template=True)
    packer = Packer(data, words, group=1)
    share = heldout_share(data)
    assert part_of(RawDocument(0, 0, "w5 w6", None, ""), 0, share) == "train"
    first = next(packer.blocks())
    said = "<s> user w5 w6 <e> nothink"
    assert first.tokens[0].tolist() == ids(words, said)
    expected = [masks.SPECIAL | masks.FIRST, 0, 0, 0, masks.SPECIAL, 0, masks.SPECIAL]
    assert first.reasons[0].tolist() == expected


def test_messages_are_rendered_by_the_template_without_being_asked(tmp_path, words):
    chat = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"m": chat}))
    source = Source(path=str(tmp_path / "a.jsonl"), messages="m", repeat=True)
    data = DataSpec(sources=(source,), tokens=10, heldout_tokens=1, context=10)
    first = next(Packer(data, words, group=1).blocks())
    said = "<s> user w5 <e> <s> assistant w6 <e> nothink"
    assert first.tokens[0].tolist() == ids(words, said)


def test_messages_that_the_template_refuses_are_named(tmp_path, words):
    (tmp_path / "a.jsonl").write_text(json.dumps({"m": [{"role": "alien", "content": "w5"}]}))
    source = Source(path=str(tmp_path / "a.jsonl"), messages="m")
    data = DataSpec(sources=(source,), tokens=10, heldout_tokens=1, context=10)
    with pytest.raises(DataError, match=r"a\.jsonl row 1: .* refuses these messages: no aliens"):
        list(Packer(data, words, group=1).blocks())


def test_a_tokenizer_without_template_or_end_token_is_refused(two, words):
    bare = copy.deepcopy(words)
    bare.chat_template = None
    with pytest.raises(ModelError, match="chat template"):
        Packer(two.model_copy(update={"chat_template": True}), bare, group=1)
    bare.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        Packer(two, bare, group=1)


def test_a_chat_tokenizer_closes_documents_as_pretraining_did_and_not_as_a_turn(words):
    assert end_of_text(words) == EOS
    chatty = copy.deepcopy(words)
    chatty.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    assert chatty.eos_token_id == EOS
    assert end_of_text(chatty) == chatty.convert_tokens_to_ids("<|endoftext|>") == 510


def test_special_ids_are_those_that_the_tokenizer_flags(words):
    assert special_ids(words).tolist() == [0, 1, 2, 3]


def test_the_builtin_text_packs_and_resumes(words):
    data = DataSpec(tokens=4000, heldout_tokens=1000, context=32)
    groups = list(Packer(data, words, group=8).blocks())
    assert sum(len(g.tokens) for g in groups) == 125 + 32
    middle = len(groups) // 2
    rest = list(Packer(data, words, group=8).blocks(groups[middle].state))
    assert all(same(a, b) for a, b in zip(rest, groups[middle + 1 :], strict=True))
