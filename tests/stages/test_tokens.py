"""The tokens stage: what it records of sources and reasons, and what it refuses to call done."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext

import numpy as np
import pytest

from sae_cli.errors import DataError
from sae_cli.lm import masks
from sae_cli.lm.split import check_split
from sae_cli.spec.stages import DataSpec, ModelSpec, Source
from sae_cli.spec.work import TokensWork
from sae_cli.stages import tokens
from sae_cli.stages.task import Task
from sae_cli.store.blocks import BlockReader


class Silent:
    def begin(self, label, total, done, unit):
        pass

    def at(self, done, numbers=None):
        pass

    def note(self, text):
        pass


@pytest.fixture
def packed(tmp_path):
    """packed(data): the finished blocks and the summary of the stage, on the builtin tokenizer."""

    def make(data):
        ends = []
        task = Task(
            name="tokens/x",
            key="0" * 8,
            slug="x",
            work=TokensWork(model=ModelSpec(builtin="tiny"), data=data),
            out=tmp_path / "out",
            deps={},
            report=Silent(),
            device="cpu",
            stop=lambda: False,
            finish=lambda files, summary: ends.append((files, summary)),
            part=lambda _: nullcontext(),
            whole=nullcontext,
            wait=lambda _: None,
        )
        task.out.mkdir(exist_ok=True)
        tokens.run([task])
        ((_, summary),) = ends
        return BlockReader(task.out), summary

    return make


def written(path, rows, **more):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return Source(path=str(path), **more)


def phrases(seed, count=400):
    dice = random.Random(seed)
    words = ["red", "blue", "green", "one", "two", "three", "hello", "name", "please", "say"]
    return [" ".join(dice.choices(words, k=dice.randrange(3, 30))) for _ in range(count)]


@pytest.fixture
def sources(tmp_path):
    plain = written(tmp_path / "p.jsonl", [{"text": t} for t in phrases(1)], weight=2.0)
    turns = [
        {"m": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}
        for a, b in zip(phrases(2), phrases(3), strict=True)
    ]
    return plain, written(tmp_path / "c.jsonl", turns, messages="m")


def test_the_record_says_what_each_source_gave_to_each_part_and_why_tokens_do_not_count(
    packed, sources
):
    data = DataSpec(
        sources=sources, tokens=3000, heldout_tokens=600, context=32, train_on=("assistant",)
    )
    blocks, summary = packed(data)
    check_split(blocks)
    for part in ("train", "heldout"):
        n = blocks.n_blocks(part)
        reasons, document = blocks.reasons(part, 0, n), blocks.document(part, 0, n)
        assert summary["reasons"][part] == {
            name: int(np.sum(reasons & bit > 0)) for name, bit in masks.PACKED.items()
        }
        assert summary["reasons"][part]["role"] > 0.1 * reasons.size
        told = summary["sources"]
        assert sum(s["tokens"][part] for s in told) == reasons.size == summary["tokens"][part]
        assert sum(s["documents"][part] for s in told) == len(np.unique(document))
        assert sum(s["counted"][part] for s in told) == np.sum(reasons == 0)
    used = [sum(s["tokens"].values()) for s in summary["sources"]]
    assert used[0] / used[1] == pytest.approx(2.0, rel=0.1)


def test_a_source_of_which_nothing_counts_is_an_error_and_not_an_empty_mask(packed, sources):
    data = DataSpec(
        sources=sources, tokens=1000, heldout_tokens=100, context=32, train_on=("asistant", "tool")
    )
    with pytest.raises(DataError) as caught:
        packed(data)
    said = str(caught.value)
    assert "c.jsonl counts: none of its messages is by asistant or tool" in said
    assert "data.train_on" in said


def test_texts_that_become_the_same_tokens_on_both_sides_are_refused(packed, tmp_path):
    strange = [{"text": f"{chr(0x4E00 + i)} " * 20} for i in range(400)]
    data = DataSpec(
        sources=(written(tmp_path / "s.jsonl", strange),),
        tokens=3000,
        heldout_tokens=600,
        context=32,
    )
    with pytest.raises(DataError, match="two texts that differ became one for this tokenizer"):
        packed(data)
