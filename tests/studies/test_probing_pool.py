"""Texts are read, forwarded without padding and pooled, as one text at a time would be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from probes import D_SAE, bench, planted, sentences

from sae_cli.spec.stages import MaskSpec
from sae_cli.studies.probe.pool import Lens, batches, pool_tokens, pooled, read

TEXTS = [text for text, _ in sentences(60)]


def test_batches_hold_texts_of_one_length_and_few_tokens() -> None:
    lengths = [3, 5, 3, 3, 9, 5, 3]
    assert batches(lengths, 10) == [[0, 2, 3], [6], [1, 5], [4]]
    assert batches(lengths, 1) == [[0], [2], [3], [6], [1], [5], [4]]


def test_a_text_is_read_behind_an_end_of_text_token_and_cut(tmp_path: Path) -> None:
    here = bench(tmp_path)
    (whole,), (cut,), (none,) = (
        read(here, [text], context=n, chat_template=False)
        for text, n in (("the sailor mends the net", 128), ("the sailor mends the net", 3), ("", 5))
    )
    words = here.tokenizer.convert_ids_to_tokens(whole.tolist())
    assert words[0] == "<|endoftext|>" and "".join(words[1:]).count("sailor") == 1
    assert len(whole) == 6 and cut.tolist() == whole[:4].tolist() and len(none) == 0


def test_a_text_can_be_a_turn_of_a_user(tmp_path: Path) -> None:
    (ids,) = read(bench(tmp_path), ["the net"], context=128, chat_template=True)
    said = bench(tmp_path).tokenizer.decode(ids.tolist())
    assert "<|im_start|>" in said and "user" in said and "net" in said


@pytest.mark.parametrize("how", ["mean", "max", "last"])
@pytest.mark.parametrize("mask", [MaskSpec(), MaskSpec(special=False, first_positions=0)])
def test_pooled_latents_are_those_of_one_text_at_a_time(
    how: str, mask: MaskSpec, tmp_path: Path
) -> None:
    here, sae = bench(tmp_path, mask=mask), planted()
    ids = read(here, TEXTS, context=128, chat_template=False)
    found = pooled(here, ids, {"sae": Lens(D_SAE, sae.encode)}, how, tmp_path / "files")
    for i, each in enumerate(ids):
        f = sae.encode(here.acts(torch.from_numpy(each[None])))[0, 1:].double()
        by_hand = {"mean": f.mean(0), "max": f.max(0).values, "last": f[-1]}[how]
        assert found.features["sae"][i] == pytest.approx(by_hand.numpy(), rel=1e-4, abs=1e-4)
        assert found.counts[i] == len(each) - 1


def test_tokens_that_do_not_count_are_in_no_pool(tmp_path: Path) -> None:
    here = bench(tmp_path)
    marked = [f"<|im_end|> {TEXTS[0]} <|im_end|>", TEXTS[0]]
    ids = read(here, [*marked, "<|im_end|>"], context=128, chat_template=False)
    lenses = {"sae": Lens(D_SAE, planted().encode)}
    found = pooled(here, ids, lenses, "mean", tmp_path / "files")
    counts = found.counts.tolist()
    assert counts[0] == counts[1] and counts[2] == 0
    assert not found.features["sae"][2].any()
    assert found.features["sae"][0] == pytest.approx(found.features["sae"][1], abs=1e-5)


def test_an_outlier_is_in_no_pool(tmp_path: Path) -> None:
    ids = read(bench(tmp_path), TEXTS, context=128, chat_template=False)
    norms = bench(tmp_path).acts(torch.from_numpy(ids[0][None]))[0, 1:].float().norm(dim=1)
    limit = float(norms.median())
    strict = bench(tmp_path, limit=limit)
    lenses = {"sae": Lens(D_SAE, planted().encode)}
    found = pooled(strict, ids[:1], lenses, "mean", tmp_path / "files")
    assert found.counts[0] == int((norms <= limit).sum()) < len(norms)


@pytest.mark.parametrize("how", ["mean", "max", "last"])
def test_a_pool_of_nothing_is_zero(how: str) -> None:
    keep = torch.tensor([[False, True, True], [False, False, False], [True, False, False]])
    f = torch.tensor([[1.0, -1.0], [3.0, -5.0], [7.0, 8.0]])
    found = pool_tokens(f, keep, how)
    first = {"mean": [2.0, -3.0], "max": [3.0, -1.0], "last": [3.0, -5.0]}[how]
    np.testing.assert_allclose(found.numpy(), [first, [0.0, 0.0], [7.0, 8.0]])
