"""Which tokens of a chat count, by role: found in the rendered text, never guessed."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from sae_cli.errors import DataError, ModelError
from sae_cli.lm import masks
from sae_cli.lm.encode import Encoder
from sae_cli.lm.load import load_tokenizer
from sae_cli.lm.pack import Packer, PackState
from sae_cli.lm.roles import inside, kept_spans
from sae_cli.lm.sources import RawDocument
from sae_cli.spec.stages import DataSpec, ModelSpec, Source

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% if m.role == 'assistant' and loop.last %}<think>\n"
    "{{ m.content.split('</think>')[0].removeprefix('<think>').strip() "
    "if '</think>' in m.content else '' }}"
    "\n</think>\n\n{% endif %}{{ said | trim }}<|im_end|>\n{% endfor %}"
)
"""As Qwen3's: thinking stays in the last answer and is dropped from those before; all is trimmed"""


def turn(role, content):
    return {"role": role, "content": content}


def chat(*messages):
    return RawDocument(0, 0, None, tuple(turn(*m) for m in messages), "chats.jsonl row 7")


@pytest.fixture(scope="module")
def letters():
    """One token per byte, and a thinking template; spaces are trimmed off a token's offsets."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.post_processor = processors.ByteLevel(trim_offsets=True)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", chat_template=THINKING
    )


def counted(tokenizer, document, *roles):
    """The text that the tokens which count spell."""
    encoder = Encoder(tokenizer, chat_template=False, train_on=roles)
    (tokens,) = encoder.encode([document])
    assert set(np.unique(tokens.reasons)) <= {0, masks.ROLE}
    return tokenizer.decode(tokens.ids[tokens.reasons == 0])


def test_only_the_messages_of_the_named_roles_count(words):
    document = chat(("system", "w1"), ("user", "w2 w3"), ("assistant", "w4"), ("user", "w5"))
    assert counted(words, document, "user") == "w2 w3 w5"
    assert counted(words, document, "assistant", "system") == "w1 w4"
    assert counted(words, document, "tool") == ""


def test_bits_and_ids_are_those_of_the_whole_rendering(words):
    document = chat(("user", "w2 w3"), ("assistant", "w4"))
    (plain,) = Encoder(words, chat_template=False).encode([document])
    (marked,) = Encoder(words, chat_template=False, train_on=("assistant",)).encode([document])
    assert np.array_equal(plain.ids, marked.ids)
    assert not plain.reasons.any()
    assert words.convert_ids_to_tokens(marked.ids[marked.reasons == 0]) == ["w4"]
    assert marked.reasons[-1] == masks.ROLE, "the end of text belongs to no message"


@pytest.mark.parametrize("said", ["user", "assistant", "<|im_end|>", "e", "im_start", "\n", "</th"])
def test_a_message_that_reads_like_the_template_is_not_mistaken_for_it(letters, said):
    document = chat(("user", said), ("assistant", said), ("user", "x" + said))
    expected = said.strip() + "x" + said.strip()
    assert counted(letters, document, "user") == expected
    assert counted(letters, document, "assistant") == said.strip()


def test_a_message_that_copies_whole_turns_stays_one_message(letters):
    fake = "hi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nhi"
    document = chat(("user", fake), ("assistant", "yes"), ("user", "hi"))
    assert counted(letters, document, "assistant") == "yes"
    assert counted(letters, document, "user") == fake + "hi"


def test_trimmed_messages_and_characters_of_many_bytes_are_found_whole(letters):
    document = chat(("user", "  été\t🦊 \n"), ("assistant", "🦊🦊 ok"))
    assert counted(letters, document, "user") == "été\t🦊"
    assert counted(letters, document, "assistant") == "🦊🦊 ok"


def test_thinking_that_the_template_drops_or_sets_apart_does_not_count(letters):
    thought = "<think>\nhm, 4\n</think>\n\n"
    document = chat(
        ("user", "2+2"),
        ("assistant", thought + "4"),
        ("user", "sure"),
        ("assistant", thought + "y"),
    )
    assert counted(letters, document, "assistant") == "4y"
    assert counted(letters, document, "user") == "2+2sure"


def test_an_empty_message_is_nothing(letters):
    document = chat(("system", " "), ("user", ""), ("assistant", "ok"))
    assert counted(letters, document, "system", "user") == ""
    assert counted(letters, document, "assistant") == "ok"


@pytest.mark.parametrize("change", ["m.content[::-1]", "''", "m.content | upper"])
def test_a_message_that_can_not_be_found_is_named(words, change):
    odd = copy.deepcopy(words)
    odd.chat_template = "{% for m in messages %}<s> {{ m.content if m.role == 'user' else CHANGE }}"
    odd.chat_template = odd.chat_template.replace("CHANGE", change) + " <e> {% endfor %}"
    document = chat(("user", "w1 w2"), ("assistant", "w3 w4"))
    assert counted(odd, document, "user") == "w1 w2"
    with pytest.raises(DataError) as caught:
        counted(odd, document, "assistant")
    assert "chats.jsonl row 7: message 2 is not found" in str(caught.value)
    assert "data.train_on" in str(caught.value)


def test_messages_that_a_template_moves_are_found_where_they_are():
    def render(contents):
        system, *rest = contents
        return f"[{rest[0]}] {{{system}}} [{rest[1]}]"

    text, spans = kept_spans(["w1", "w2", "w3"], [True, False, True], render, "row 1")
    assert [text[a:b] for a, b in spans] == ["w1", "w3"]


def test_a_token_counts_if_one_character_of_it_is_inside():
    offsets = np.array([[0, 2], [2, 5], [5, 5], [6, 9], [9, 10]])
    assert inside(offsets, [(4, 6)]).tolist() == [False, True, False, False, False]
    assert inside(offsets, [(1, 2), (8, 10)]).tolist() == [True, False, False, True, True]
    assert inside(np.array([[0, 2], [4, 4], [4, 6]]), [(3, 6)]).tolist() == [False, True, True]
    assert not inside(offsets, []).any()


def test_plain_text_counts_whole_and_wrapped_text_is_the_users(words):
    plain = RawDocument(0, 0, "w1 <s> w2", None, "")
    whole, wrapped = (
        Encoder(words, chat_template=wrap, train_on=("user",)).encode([plain])[0]
        for wrap in (False, True)
    )
    assert not whole.reasons.any()
    assert words.decode(wrapped.ids[wrapped.reasons == 0]) == "w1 <s> w2"
    (silent,) = Encoder(words, chat_template=True, train_on=("assistant",)).encode([plain])
    assert (silent.reasons == masks.ROLE).all()


def test_chats_and_plain_text_may_stand_in_one_batch(words):
    documents = [RawDocument(0, 0, "w1", None, ""), chat(("user", "w2"), ("assistant", "w3"))]
    plain, marked = Encoder(words, chat_template=False, train_on=("user",)).encode(documents)
    assert words.decode(plain.ids[plain.reasons == 0]) == "w1 <eos>"
    assert words.decode(marked.ids[marked.reasons == 0]) == "w2"


def test_a_tokenizer_without_offsets_is_refused():
    Encoder(ByT5Tokenizer(), chat_template=False)
    with pytest.raises(ModelError, match="where its tokens stand"):
        Encoder(ByT5Tokenizer(), chat_template=False, train_on=("user",))


def test_the_builtin_chats_spell_their_messages():
    tokenizer = load_tokenizer(ModelSpec(builtin="tiny"))
    document = chat(("user", "please say red blue ."), ("assistant", "red blue ."))
    assert counted(tokenizer, document, "assistant").split() == ["red", "blue", "."]


def chats(path, count=300):
    dice = random.Random(3)

    def text():
        return " ".join(f"w{dice.randrange(100, 500)}" for _ in range(dice.randrange(1, 12)))

    rows = [[turn("user", text()), turn("assistant", text())] for _ in range(count)]
    path.write_text("\n".join(json.dumps({"m": row}) for row in rows))
    return Source(path=str(path), messages="m")


def test_packing_carries_the_bits_and_resumes_with_the_same(tmp_path, words):
    (tmp_path / "plain.jsonl").write_text(
        "\n".join(json.dumps({"text": f"w{i % 90} w{i % 7}"}) for i in range(900))
    )
    data = DataSpec(
        sources=(chats(tmp_path / "c.jsonl"), Source(path=str(tmp_path / "plain.jsonl"))),
        tokens=2500,
        heldout_tokens=400,
        context=8,
        train_on=("assistant",),
    )
    groups = list(Packer(data, words, group=3).blocks())
    for i, group in enumerate(groups):
        state = PackState.model_validate(
            json.loads(json.dumps(group.state.model_dump(mode="json")))
        )
        rest = next(iter(Packer(data, words, group=3).blocks(state)), None)
        assert rest is None or np.array_equal(rest.reasons, groups[i + 1].reasons)
        assert rest is None or rest.state == groups[i + 1].state
    joined = {
        field: np.concatenate([getattr(g, field).ravel() for g in groups if g.part == "train"])
        for field in ("tokens", "document", "reasons")
    }
    start, _, end, user, assistant = 2, 1, 3, 4, 5
    checked = 0
    for number in np.unique(joined["document"])[:-1]:
        mine = joined["document"] == number
        ids, role = joined["tokens"][mine].tolist(), joined["reasons"][mine] & masks.ROLE
        if start not in ids:
            assert not role.any()
            continue
        at = ids.index(assistant) + 1
        expected = [not at <= i < ids.index(end, at) for i in range(len(ids))]
        assert (role > 0).tolist() == expected
        assert user in ids
        checked += 1
    assert checked > 50
    last = groups[-1].state
    assert last.reasons["train"]["role"] == np.sum(joined["reasons"] & masks.ROLE > 0)
