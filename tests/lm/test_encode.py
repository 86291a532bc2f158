"""What a tokenizer makes of documents and messages, and which of its tokens count."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from texts import EOS, ids

from sae_cli.errors import DataError, ModelError
from sae_cli.lm import masks
from sae_cli.lm.encode import end_of_text, heldout_share, part_of, special_ids
from sae_cli.lm.pack import Packer
from sae_cli.lm.sources import RawDocument
from sae_cli.spec.stages import DataSpec, MaskSpec, Source


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
