"""Whether a document is held out hangs on its text and the seed alone, and both sides fill."""

from __future__ import annotations

from itertools import groupby

import pytest
from texts import corpus, ids, streams

from sae_cli.lm.encode import heldout_share, part_of
from sae_cli.lm.pack import Packer
from sae_cli.lm.sources import RawDocument
from sae_cli.spec.stages import DataSpec, Source


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
