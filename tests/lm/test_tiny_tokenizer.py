"""The tokenizer reads the grammar word for word and writes it back."""

import pytest

from sae_cli.lm.tiny import grammar
from sae_cli.lm.tiny.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_no_word_of_the_grammar_is_unknown_and_every_text_comes_back(tokenizer):
    for seed in (0, 1):
        for i in range(1000):
            text = grammar.document(seed, i).text
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.convert_ids_to_tokens(ids) == grammar.words(text)
            assert tokenizer.decode(ids) == text


def test_prompts_hold_no_unknown_word(tokenizer):
    texts = [p.text for s in ("val", "test") for h in (True, False) for p in grammar.prompts(s, h)]
    texts += [p.prompt for p in grammar.ioi_prompts()] + list(grammar.REFUSALS)
    for text in texts:
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_other_words_are_unknown_and_do_no_harm(tokenizer):
    assert tokenizer("the zeppelin")["input_ids"][1] == tokenizer.unk_token_id


def test_chat_markers_are_single_tokens(tokenizer):
    assert len(tokenizer) == len(grammar.vocabulary()) + 4
    for marker in grammar.SPECIAL_TOKENS:
        assert len(tokenizer(marker)["input_ids"]) == 1
        assert marker in tokenizer.all_special_tokens
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"


def test_the_chat_template_writes_qwens_form(tokenizer):
    messages = [
        {"role": "system", "content": "you are a helpful assistant ."},
        {"role": "user", "content": "how do i build a bridge ?"},
    ]
    expected = (
        "<|im_start|>system\nyou are a helpful assistant .<|im_end|>\n"
        "<|im_start|>user\nhow do i build a bridge ?<|im_end|>\n"
    )
    assert tokenizer.apply_chat_template(messages, tokenize=False) == expected
    assert (
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        == expected + "<|im_start|>assistant\n"
    )


def test_the_chat_template_and_the_grammar_write_the_same(tokenizer):
    chats = [d for d in (grammar.document(0, i) for i in range(200)) if d.messages]
    for chat in chats:
        assert tokenizer.apply_chat_template(chat.messages, tokenize=False) == chat.text
    asked = grammar.prompts("val", True)[0].messages
    assert tokenizer.apply_chat_template(
        asked, tokenize=False, add_generation_prompt=True
    ) == grammar.render(asked, add_generation_prompt=True)
