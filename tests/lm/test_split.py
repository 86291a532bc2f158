"""The blocks themselves show that no held-out document was trained on; a broken split is seen."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pytest

from sae_cli.errors import DataError
from sae_cli.lm import split
from sae_cli.lm.pack import Packer
from sae_cli.lm.split import TRIVIAL, check_split
from sae_cli.spec.stages import DataSpec, Source


@dataclass(frozen=True)
class Held:
    """Blocks in memory, as `check_split` reads them: {split: {column: [blocks, context]}}."""

    parts: dict[str, dict[str, np.ndarray]]
    context: int = 16

    def n_blocks(self, split):
        return len(self.parts[split]["tokens"])

    def tokens(self, split, start, stop):
        return self.parts[split]["tokens"][start:stop]

    def document(self, split, start, stop):
        return self.parts[split]["document"][start:stop]

    def changed(self, split, column, where, value):
        """A copy with another value at one flat place or slice."""
        array = self.parts[split][column].copy()
        array.reshape(-1)[where] = value
        return replace(self, parts=self.parts | {split: self.parts[split] | {column: array}})


@pytest.fixture
def mixed(tmp_path, words):
    """Three sources; half of the documents are in two of them, some many times, one repeats."""
    dice = random.Random(8)
    texts = [
        " ".join(f"w{dice.randrange(500)}" for _ in range(dice.randrange(1, 90)))
        for _ in range(300)
    ]
    shares = (texts[:200], texts[100:], texts[50:120] * 3)
    for name, rows in zip("abc", shares, strict=True):
        dice.shuffle(rows)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in rows))
    sources = [Source(path=str(tmp_path / f"{n}.jsonl"), repeat=n == "c") for n in "abc"]
    data = DataSpec(sources=tuple(sources), tokens=12_000, heldout_tokens=1500, context=16)
    groups = list(Packer(data, words, group=9).blocks())
    columns = {
        part: {
            field: np.concatenate([getattr(g, field) for g in groups if g.part == part])
            for field in ("tokens", "document")
        }
        for part in ("train", "heldout")
    }
    return Held(columns)


def sequences(blocks, part):
    """Number and tokens of every document, rebuilt token by token."""
    tokens = blocks.parts[part]["tokens"].ravel().tolist()
    document = blocks.parts[part]["document"].ravel().tolist()
    runs = groupby(zip(document, tokens, strict=True), key=lambda pair: pair[0])
    return [(number, tuple(token for _, token in run)) for number, run in runs]


@pytest.mark.parametrize("step", [1, 100, 2**20])
def test_no_held_out_document_is_in_training_though_sources_share_documents(
    mixed, monkeypatch, step
):
    train, heldout = sequences(mixed, "train"), sequences(mixed, "heldout")
    seen = [tokens for _, tokens in train]
    assert len(set(seen)) < 0.7 * len(seen), "documents come more than once"
    long = {tokens for _, tokens in heldout if len(tokens) >= TRIVIAL}
    assert len(long) > 15
    assert not long & set(seen)
    assert not {n for n, _ in heldout} & {n for n, _ in train}
    monkeypatch.setattr(split, "_STEP", step)
    check_split(mixed)


@pytest.mark.parametrize("step", [1, 100, 2**20])
def test_a_held_out_document_in_training_is_seen_wherever_it_stands(mixed, monkeypatch, step):
    monkeypatch.setattr(split, "_STEP", step)
    train, heldout = sequences(mixed, "train"), sequences(mixed, "heldout")
    number, leaked = next((n, t) for n, t in heldout[3:] if len(t) >= 40)
    for victim in (train[0], next(pair for pair in train[5:] if len(pair[1]) > 60)):
        at = int(np.flatnonzero(mixed.parts["train"]["document"].ravel() == victim[0])[0])
        place = slice(at, at + len(leaked))
        broken = mixed.changed("train", "tokens", place, leaked)
        broken = broken.changed("train", "document", place, 10**6)
        with pytest.raises(DataError) as caught:
            check_split(broken)
        said = f"training document 1000000 has the same {len(leaked)} tokens as held-out document"
        assert f"{said} {number}" in str(caught.value)


def test_a_document_number_on_both_sides_is_seen(mixed):
    number = sequences(mixed, "heldout")[-1][0]
    with pytest.raises(DataError, match=f"document {number} is in the training and in the held"):
        check_split(mixed.changed("train", "document", -1, number))


def test_equal_scraps_are_no_leak():
    def blocks(length):
        same = np.full((1, 64), 7, np.int32)
        numbers = np.repeat([[0, 1]], [length, 64 - length], axis=1)
        return Held(
            {
                "train": {"tokens": same, "document": numbers},
                "heldout": {"tokens": same[:, :length], "document": numbers[:, :length] + 5},
            },
            64,
        )

    check_split(blocks(TRIVIAL - 1))
    with pytest.raises(DataError, match="same 16 tokens"):
        check_split(blocks(TRIVIAL))
