"""Chats and who speaks in them, told by special tokens that a template writes."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_cli.lm.load import load_tokenizer
from sae_cli.lm.turns import chats_of, roles_of
from sae_cli.spec.stages import ModelSpec

SPECIALS = ["<unk>", "<eos>", "<bos>", "<a>", "<b>", "<turn>", "<end>"]
WORDS = [*SPECIALS, "user", "model", "assistant", "system", "w1", "w2", "w3", "x", "y"]
TWO_MARKS = "<bos> {% for m in messages %}<a> {{ m.role }} <b> {{ m.content }} <end> {% endfor %}"
RENAMES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}<turn> {{ 'model' if m.role == 'assistant' else m.role }} "
    "{{ m.content }} <end> {% endfor %}"
)


def tokenizer(template):
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(SPECIALS)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="<eos>", bos_token="<bos>",
        chat_template=template,
    )  # fmt: skip


def ids(text):
    return np.array([WORDS.index(w) for w in text.split()])


def said(template, text):
    chats = chats_of(tokenizer(template))
    found = roles_of(ids(text), chats)
    words = np.array(text.split())
    return {role: words[inside].tolist() for role, inside in found.items()}


def test_headers_reach_back_to_what_tells_roles_apart():
    text = "w1 <eos> <bos> <a> user <b> w1 w2 <end> <a> assistant <b> w3 <end> <eos> w2"
    assert said(TWO_MARKS, text) == {"assistant": ["w3"], "system": [], "user": ["w1", "w2"]}
    marks = chats_of(tokenizer(TWO_MARKS)).marks
    assert [WORDS[i] for i in marks] == ["<a>", "<b>", "<end>"]


def test_roles_go_by_the_templates_own_words_and_what_it_refuses_is_no_role():
    text = "<turn> user w1 <end> <turn> model w2 w3 <end> <turn> assistant w1 <end>"
    assert said(RENAMES, text) == {"assistant": ["w2", "w3"], "user": ["w1"]}


def test_a_message_that_the_text_cuts_off_goes_to_its_end():
    assert said(RENAMES, "w1 <turn> user w1 w2")["user"] == ["w1", "w2"]
    assert said(RENAMES, "w1 <turn> user")["user"] == []
    assert said(RENAMES, "w1")["user"] == []


def test_an_unknown_word_ends_no_message_and_marks_no_chat():
    assert said(RENAMES, "<turn> user w1 <unk> w2 <end>")["user"] == ["w1", "<unk>", "w2"]
    marks = chats_of(tokenizer(RENAMES.replace("<end>", "<end> strange"))).marks
    assert [WORDS[i] for i in marks] == ["<turn>", "<end>"]


@pytest.mark.parametrize(
    "template", [None, "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"]
)
def test_without_special_tokens_of_its_own_a_template_tells_no_chat(template):
    assert chats_of(tokenizer(template)) is None


def test_the_embedded_models_chats_are_told():
    embedded = load_tokenizer(ModelSpec(builtin="tiny"))
    chats = chats_of(embedded)
    assert embedded.convert_ids_to_tokens(list(chats.marks)) == ["<|im_start|>", "<|im_end|>"]
    heads = {role: embedded.convert_ids_to_tokens(list(h)) for role, h in chats.headers.items()}
    assert heads["user"] == ["<|im_start|>", "user", "\n"]
