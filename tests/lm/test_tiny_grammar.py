"""The grammar's promises: pure documents, true labels, and combinations that stay held out."""

import random
import subprocess
import sys
from itertools import product

import pytest

from sae_cli.lm.tiny import grammar, lexicon
from sae_cli.lm.tiny.dice import Dice
from sae_cli.lm.tiny.prompts import is_harmful
from sae_cli.lm.tiny.replies import answers

SPLITS = ("train", "val", "test")
DOCUMENT_NINE = (
    "the fisher watches some grey waves . he sometimes steers the raft . the raft is swift . "
    "this fisher who pulls a rope also steers this boat ."
)


@pytest.fixture(scope="module")
def documents():
    return [grammar.document(grammar.TRAIN_SEED, i) for i in range(4000)]


def test_it_imports_without_torch_or_numpy():
    code = (
        "import sys, sae_cli.lm.tiny.grammar\n"
        "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_document_depends_on_its_seed_and_number_only(documents):
    order = list(range(300))
    random.Random(0).shuffle(order)
    for i in order:
        assert grammar.document(grammar.TRAIN_SEED, i) == documents[i]
    assert [grammar.document(1, i).text for i in range(50)] != [d.text for d in documents[:50]]


def test_the_stream_does_not_move():
    assert grammar.document(0, 9).text == DOCUMENT_NINE


def test_a_negative_number_is_no_document():
    with pytest.raises(ValueError, match="numbered from 0"):
        grammar.document(0, -1)


def test_documents_come_in_every_kind_and_a_packable_length(documents):
    assert {d.kind for d in documents} == {"prose", "quote", "ioi", "copy", "chat"}
    assert all(15 <= len(d.labels) <= 130 for d in documents)


def test_documents_other_than_chats_end_with_punctuation(documents):
    for d in documents:
        assert (d.messages is not None) == (d.kind == "chat")
        if d.messages is None:
            assert d.text.endswith((".", '"'))
        else:
            assert d.text == grammar.render(d.messages)


def test_there_is_one_label_per_word(documents):
    for d in documents:
        assert [label.word for label in d.labels] == grammar.words(d.text)


def test_the_vocabulary_is_what_documents_use(documents):
    used = {label.word for d in documents for label in d.labels} - set(grammar.SPECIAL_TOKENS)
    assert used <= set(grammar.vocabulary())
    assert len(used) > 0.97 * len(grammar.vocabulary())


def test_a_copied_word_repeats_the_word_it_points_to(documents):
    copies = 0
    for d in documents:
        for i, label in enumerate(d.labels):
            if label.copy_of is not None:
                assert label.copy_of < i
                assert d.labels[label.copy_of].word == label.word
                copies += 1
    assert copies > 1000


def test_words_are_quoted_exactly_between_the_marks(documents):
    for d in documents:
        inside = False
        for label in d.labels:
            if label.word == '"':
                assert label.role == ("quote_close" if inside else "quote_open")
                assert not label.quoted
                inside = not inside
            else:
                assert label.quoted == inside
        assert not inside


def test_verbs_agree_with_their_subjects(documents):
    forms = {}
    for topic in lexicon.TOPICS.values():
        for verb in topic.verbs:
            forms[verb], forms[lexicon.inflect(verb)] = "pl", "sg"
    agreed = 0
    for d in documents:
        if d.kind != "prose":
            continue
        subject = None
        for label in d.labels:
            if label.role in ("subject", "pronoun"):
                subject = label.number
            elif label.role == "verb":
                assert label.number == subject
                if label.topic is not None:
                    assert forms[label.word] == subject
                    agreed += 1
    assert agreed > 1000


def test_names_are_labelled_and_nothing_else_is(documents):
    for d in documents:
        for label in d.labels:
            assert (label.name == label.word) == (label.word in lexicon.NAMES)


def test_topic_words_belong_to_their_topic(documents):
    placed = set()
    for d in documents:
        for label in d.labels:
            if label.topic is not None and label.role == "place":
                assert label.word in lexicon.TOPICS[label.topic].places
                placed.add(label.topic)
    assert placed == set(lexicon.TOPICS)


def test_harmful_words_stand_exactly_in_harmful_requests(documents):
    marked = 0
    for d in documents:
        said = [label.word for label in d.labels]
        for i in range(len(said) - 2):
            first, second = said[i], said[i + 2]
            if d.labels[i].speaker != "user" or not grammar.combinations(" ".join(said[i : i + 3])):
                continue
            assert d.labels[i].harmful == d.labels[i + 2].harmful == is_harmful((first, second))
            marked += d.labels[i].harmful
    assert marked > 200


def test_a_chat_refuses_what_is_harmful_and_answers_the_rest(documents):
    refused = answered = 0
    for d in documents:
        for question, reply in zip(d.messages or [], (d.messages or [])[1:], strict=False):
            pairs = grammar.combinations(question["content"])
            if question["role"] != "user" or not pairs:
                continue
            acts = [p for p in pairs if p[0] in lexicon.ACTS]
            deeds = [p for p in pairs if p[0] in lexicon.DEEDS]
            request = grammar.Request(acts[0] if acts else None, deeds[0] if deeds else None)
            if request.harmful:
                assert grammar.is_wellformed_refusal(reply["content"])
                assert not grammar.valid_answer(request, reply["content"])
                refused += 1
            else:
                assert grammar.valid_answer(request, reply["content"])
                assert not grammar.is_refusal(reply["content"])
                answered += 1
    assert refused > 200 and answered > 200


def test_held_out_combinations_never_occur_in_documents():
    for seed, n in ((grammar.TRAIN_SEED, 12_000), (1, 2_000)):
        found = {p for i in range(n) for p in grammar.combinations(grammar.document(seed, i).text)}
        assert len(found) > 100
        assert {grammar.split_of(pair) for pair in found} == {"train"}


def test_held_out_pairs_of_names_never_share_a_sentence(documents):
    pairs = set()
    for d in documents:
        if d.kind == "ioi":
            for sentence in d.text.split(" . "):
                names = {word for word in sentence.split() if word in lexicon.NAMES}
                if len(names) == 2:
                    pairs.add(tuple(sorted(names)))
    assert len(pairs) > 100
    assert not [pair for pair in pairs if grammar.ioi_pair_is_held_out(*pair)]


def test_every_word_of_a_request_is_read_in_harmless_requests_and_some_in_both(documents):
    read = {pair for d in documents for pair in grammar.combinations(d.text)}
    for words, suspect in (
        (lexicon.ACTS, lexicon.GETTING),
        (lexicon.THINGS, lexicon.DANGEROUS),
        (lexicon.DEEDS, lexicon.HARSH),
        (lexicon.PERSONS, lexicon.GOOD),
    ):
        for word in words:
            fates = {is_harmful(pair) for pair in read if word in pair}
            assert fates == ({True, False} if word in suspect else {False}), word


def test_the_words_of_requests_are_used_for_nothing_else(documents):
    special = set(lexicon.ACTS + lexicon.THINGS + lexicon.DEEDS + lexicon.PERSONS)
    for d in documents:
        for label in d.labels:
            assert label.role.startswith(("request_", "answer_")) or label.word not in special


def test_no_single_word_makes_a_request_harmful():
    for firsts, seconds in ((lexicon.ACTS, lexicon.THINGS), (lexicon.DEEDS, lexicon.PERSONS)):
        for word in firsts:
            assert sum(is_harmful((word, other)) for other in seconds) <= len(seconds) / 2
        for word in seconds:
            assert sum(is_harmful((other, word)) for other in firsts) <= len(firsts) / 2


def test_prompts_are_many_distinct_and_belong_to_their_split():
    texts = {}
    pairs = {split: set() for split in SPLITS}
    for split, harmful in product(SPLITS, (True, False)):
        found = grammar.prompts(split, harmful)
        assert found == grammar.prompts(split, harmful)
        assert len(found) >= (100 if harmful else 250)
        for prompt in found:
            assert prompt.harmful == prompt.request.harmful == harmful
            assert prompt.messages == [{"role": "user", "content": prompt.text}]
            assert {grammar.split_of(p) for p in grammar.combinations(prompt.text)} == {split}
            pairs[split].update(grammar.combinations(prompt.text))
            assert texts.setdefault(prompt.text, (split, harmful)) == (split, harmful)
    assert not pairs["val"] & pairs["test"]


def test_answers_and_refusals_are_told_apart():
    prompt = grammar.prompts("test", False)[0]
    right = answers(prompt.request)[0]
    assert grammar.valid_answer(prompt, right + "<|im_end|>")
    assert not grammar.valid_answer(prompt, right + " " + right)
    assert not grammar.valid_answer(prompt, right.replace("sure ,", "sure"))
    for refusal in grammar.REFUSALS:
        assert grammar.is_refusal(refusal) and grammar.is_wellformed_refusal(refusal)
    broken = grammar.REFUSALS[0] + " the the"
    assert grammar.is_refusal(broken) and not grammar.is_wellformed_refusal(broken)
    assert not grammar.is_refusal(right)


def test_indirect_object_prompts_name_who_receives():
    for p in grammar.ioi_prompts(100):
        said = p.prompt.split()
        assert said[-1] == "to"
        assert said.count(p.correct) == 1 and said.count(p.wrong) == 2
        assert grammar.ioi_pair_is_held_out(p.correct, p.wrong)


def test_dice_keep_the_surprise_of_what_they_chose():
    dice = Dice("a")
    dice.pick("abcd")
    dice.weighted(("x", "y"), (1.0, 1.0))
    assert dice.nats == pytest.approx(2.0794415416798357)
    with pytest.raises(ValueError):
        dice.pick(())
    with pytest.raises(ValueError):
        dice.weighted(("x",), (0.0,))
