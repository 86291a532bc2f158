"""The text that features are watched on: a workspace's, the same packed again, or a file's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from sae_cli.errors import DataError
from sae_cli.lm import masks
from sae_cli.lm.load import load_tokenizer
from sae_cli.spec.stages import MaskSpec, ModelSpec
from sae_cli.studies.bench import Bench
from sae_cli.studies.dashboards.texts import file_text, packed_text, stored_text, words_of

TINY = ModelSpec(builtin="tiny")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(TINY)


@pytest.mark.parametrize(("tokens", "blocks"), [(1, 1), (300, 3), (10**9, 64)])
def test_packed_again_the_text_is_that_of_the_workspace(
    bench: Bench, tokenizer: PreTrainedTokenizerBase, tokens: int, blocks: int
) -> None:
    (place,) = (bench.scratch / "store" / "tokens").iterdir()
    stored, packed = stored_text(place, tokens), packed_text(bench.data, tokenizer, tokens)
    assert stored.tokens.shape == (blocks, 128)
    assert (stored.tokens == packed.tokens).all() and (stored.reasons == packed.reasons).all()


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_documents_of_a_file_stand_behind_one_another(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, kind: str
) -> None:
    documents = [f"the cook bakes {'the pies ' * n}." for n in range(1, 90)]
    file = tmp_path / f"some.{kind}"
    lines = [json.dumps({"text": each}) for each in documents]
    file.write_text("\n".join(lines) if kind == "jsonl" else "\n\n".join(documents))
    found = file_text(file, tokenizer, MaskSpec(first_positions=2), 50, 1000)
    wanted = [tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    for each in documents:
        wanted += [*tokenizer(each)["input_ids"], wanted[0]]
    flat = found.tokens.ravel()
    assert flat.tolist() == wanted[: len(flat)] and len(flat) >= 1000
    assert found.tokens.shape[1] == 50 and found.name == file.name
    special = (found.reasons & masks.SPECIAL) > 0
    assert (special == (found.tokens == wanted[0])).all()
    assert (((found.reasons & masks.FIRST) > 0) == (np.arange(50) < 2)).all()


def test_a_file_shorter_than_a_block_is_one_block(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("the cook bakes the pies .")
    assert file_text(tmp_path / "short.txt", tokenizer, MaskSpec(), 128, 9).tokens.shape == (1, 8)


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_a_file_without_text_is_an_error(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "empty.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError):
        file_text(file, tokenizer, MaskSpec(), 128, 9)


def test_words_join_to_the_text_and_ids_beyond_the_vocabulary_have_none(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    text = "the cook bakes the pies . the climber crosses the glacier !"
    ids = tokenizer(text)["input_ids"]
    words = words_of(tokenizer, [*ids, 10**6])
    assert "".join(words).strip() == text and words[-1] == ""
