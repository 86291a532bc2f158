"""Texts whose next word is somewhere above: indirect objects and copied sequences.

These are the two circuits that every interpretability method is tried on first. For the
indirect object, some pairs of names never meet in the text and are kept for `ioi_prompts`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .dice import Dice
from .lexicon import COLORS, GIFTS, NAMES, NUMBERS, TOPICS, VENUES
from .page import Document, Page

_SCENES = (
    ("when", "went to the", ",", "gave a"),
    ("after", "left the", ",", "handed a"),
    ("while", "sat in the", ",", "passed a"),
    ("", "met at the", ". then", "sent a"),
)
_COPY_WORDS = tuple(
    sorted(
        {noun for topic in TOPICS.values() for pair in topic.objects for noun in pair}
        | set(COLORS + NUMBERS + GIFTS)
    )
)


@dataclass(frozen=True, slots=True)
class IOIPrompt:
    """A sentence that stops before its indirect object.

    Attributes:
        prompt: the text so far; the next word should be `correct`.
        correct: the name mentioned once, who receives.
        wrong: the name mentioned twice, who gives.
    """

    prompt: str
    correct: str
    wrong: str


def ioi_pair_is_held_out(first: str, second: str) -> bool:
    """Whether two names never share an indirect-object sentence in any document."""
    a, b = NAMES.index(first), NAMES.index(second)
    return (a + b + 3 * abs(a - b)) % 7 == 0


def _ioi_sentence(page: Page, dice: Dice, first: str, second: str, giver: int) -> None:
    opening, went, comma, gave = dice.pick(_SCENES)
    pair = (first, second)
    if opening:
        page.add(opening, "conj")
    at = [page.add(first, "name_subject" if giver == 0 else "name_object")]
    page.add("and", "conj")
    at.append(page.add(second, "name_subject" if giver == 1 else "name_object"))
    page.add(went, "verb")
    page.add(dice.pick(VENUES), "place")
    page.add(comma, "punct")
    page.add(pair[giver], "name_giver", copy_of=at[giver])
    page.add(gave, "verb")
    gift = page.add(dice.pick(GIFTS), "object", number="sg")
    page.add("to", "prep")
    page.add(pair[1 - giver], "name_receiver", copy_of=at[1 - giver])
    page.add(".", "punct")
    if dice.chance(0.5):
        page.add(pair[1 - giver], "name_receiver", copy_of=at[1 - giver])
        page.add("thanked", "verb")
        page.add(pair[giver], "name_giver", copy_of=at[giver])
        page.add("for the", "prep")
        page.add(page.labels[gift].word, "object", number="sg", copy_of=gift)
        page.add(".", "punct")


def ioi(dice: Dice) -> Document:
    """Two or three sentences in which one of two people gives something to the other."""
    page = Page()
    for _ in range(2 + dice.below(2)):
        first = dice.pick(NAMES)
        partners = [n for n in NAMES if n != first and not ioi_pair_is_held_out(first, n)]
        _ioi_sentence(page, dice, first, dice.pick(partners), dice.below(2))
    return page.document("ioi", dice.nats)


def ioi_prompts(n: int = 200, seed: int = 0) -> list[IOIPrompt]:
    """n indirect-object prompts whose pairs of names were never trained together."""
    dice = Dice(f"ioi prompts {seed}")
    pairs = [(a, b) for a in NAMES for b in NAMES if a != b and ioi_pair_is_held_out(a, b)]
    prompts = []
    for _ in range(n):
        first, second = dice.pick(pairs)
        giver = dice.below(2)
        page = Page()
        _ioi_sentence(page, dice, first, second, giver)
        end = [label.role for label in page.labels].index("name_receiver")
        text = " ".join(label.word for label in page.labels[:end])
        prompts.append(IOIPrompt(text, *((second, first) if giver == 0 else (first, second))))
    return prompts


def _list(page: Page, dice: Dice) -> None:
    items = dice.sample(_COPY_WORDS, 4 + dice.below(3))
    page.add("list :", "frame")
    start = len(page.labels)
    for item in items:
        page.add(item, "copy_source")
    page.add(".", "punct")
    for _ in range(2 + dice.below(2)):
        page.add("again :", "frame")
        page.add(" ".join(items), "copy_target", copy_of=start)
        page.add(".", "punct")


def _pairs(page: Page, dice: Dice) -> None:
    people = dice.sample(NAMES, 4)
    relation, values = dice.pick((("likes", COLORS), ("counts", NUMBERS)))
    facts = {}
    for person in people:
        page.add(person, "name_source")
        page.add(relation, "verb")
        facts[person] = page.add(dice.pick(values), "copy_source")
        page.add(",", "punct")
    for person in [*dice.sample(people, len(people)), dice.pick(people)]:
        page.add(person, "name")
        page.add(relation, "verb")
        page.add(page.labels[facts[person]].word, "copy_target", copy_of=facts[person])
        page.add(",", "punct")
    page.add("done .", "punct")


def copy(dice: Dice) -> Document:
    """A sequence said again, or facts about people that are asked for later."""
    page = Page()
    if dice.chance(0.5):
        _list(page, dice)
    else:
        _pairs(page, dice)
    return page.document("copy", dice.nats)
