"""The language of the embedded model: documents by number, prompts by split.

Document i of a stream is a pure function of (seed, i): streams need no state, can be read from
anywhere, and two machines agree on every word. Training text is stream 0; anything measured
uses another stream, or prompts made of combinations that no document contains. Imports nothing
but the standard library.
"""

from __future__ import annotations

from collections.abc import Callable

from . import lexicon
from .chat import chat
from .dice import Dice
from .page import Document, Message, WordLabel, render, words
from .patterns import IOIPrompt, copy, ioi, ioi_pair_is_held_out, ioi_prompts
from .prompts import Prompt, Request, combinations, prompts, split_of
from .prose import prose, quote
from .replies import REFUSALS, is_refusal, is_wellformed_refusal, valid_answer

__all__ = [
    "REFUSALS",
    "SPECIAL_TOKENS",
    "TRAIN_SEED",
    "Document",
    "IOIPrompt",
    "Message",
    "Prompt",
    "Request",
    "WordLabel",
    "combinations",
    "document",
    "ioi_pair_is_held_out",
    "ioi_prompts",
    "is_refusal",
    "is_wellformed_refusal",
    "prompts",
    "render",
    "split_of",
    "valid_answer",
    "vocabulary",
    "words",
]

TRAIN_SEED = 0
"""The stream that the shipped weights were trained on."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

_KINDS: dict[Callable[[Dice], Document], float] = {
    chat: 0.40,
    prose: 0.28,
    quote: 0.12,
    ioi: 0.12,
    copy: 0.08,
}


def document(seed: int, i: int) -> Document:
    """Document i of stream `seed`, some 20 to 120 words long.

    Raises:
        ValueError: i is negative.
    """
    if i < 0:
        raise ValueError(f"documents are numbered from 0, not {i}")
    dice = Dice(f"document {seed} {i}")
    kind = dice.weighted(tuple(_KINDS), tuple(_KINDS.values()))
    return kind(dice)


_FUNCTION_WORDS = (
    "the a an every this some many these she he they often always sometimes rarely near behind and "
    "who also is are i we says say asks do you answers yes when after while went to left sat in "
    "met at then gave handed passed sent thanked for list again likes counts done how please tell "
    "me can help what best way want should show night week home today sure of course good luck "
    "first am sorry but no cannot with that will not must explain because it safe wrong ask "
    "something else hello my name system user assistant helpful"
)


def vocabulary() -> list[str]:
    """Every word that a text of the grammar can contain, sorted, without the special tokens."""
    found = set(_FUNCTION_WORDS.split()) | {".", ",", "?", "!", ":", '"', "\n"}
    for topic in lexicon.TOPICS.values():
        found |= set(topic.adjectives + topic.places)
        nouns = topic.people + tuple(noun for pair in topic.objects for noun in pair)
        for word in nouns + topic.verbs:
            found |= {word, lexicon.inflect(word)}
    found |= set(lexicon.NAMES + lexicon.VENUES + lexicon.GIFTS)
    found |= set(lexicon.COLORS + lexicon.NUMBERS)
    found |= set(lexicon.ACTS + lexicon.THINGS + lexicon.DEEDS + lexicon.PERSONS)
    found |= set(lexicon.HAUNTS.values())
    for table in (lexicon.STEPS, lexicon.PARTS, lexicon.MEANS):
        for pair in table.values():
            found |= set(pair)
    return sorted(found)
