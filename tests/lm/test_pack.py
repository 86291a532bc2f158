"""Blocks are whole, a pure function of the spec, and resumable anywhere."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import numpy as np
from texts import corpus, ids, same, streams

from sae_cli.lm.pack import Packer, PackState
from sae_cli.spec.stages import DataSpec, Source


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


def test_the_builtin_text_packs_and_resumes(words):
    data = DataSpec(tokens=4000, heldout_tokens=1000, context=32)
    groups = list(Packer(data, words, group=8).blocks())
    assert sum(len(g.tokens) for g in groups) == 125 + 32
    middle = len(groups) // 2
    rest = list(Packer(data, words, group=8).blocks(groups[middle].state))
    assert all(same(a, b) for a, b in zip(rest, groups[middle + 1 :], strict=True))
