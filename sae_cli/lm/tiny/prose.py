"""Sentences about a topic, told or spoken.

Two things are put here for features to find: agreement, where a verb follows the number of a
subject several words back, and quotation, where the same mark opens and closes, so that only a
memory of the open one tells which it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from .dice import Dice
from .lexicon import (
    ADVERBS,
    NAMES,
    PLURAL_DETERMINERS,
    PRONOUNS,
    SINGULAR_DETERMINERS,
    TOPICS,
    Topic,
    inflect,
)
from .page import Document, Page


@dataclass(slots=True)
class Scene:
    """Who a document is about, and the object that was last mentioned."""

    page: Page
    dice: Dice
    topic: Topic
    person: int
    number: str
    thing: str = ""
    thing_number: str = ""
    thing_verb: int = 0
    thing_at: int = 0

    @property
    def subject(self) -> str:
        """The person noun in the scene's number."""
        noun = self.topic.people[self.person]
        return noun if self.number == "sg" else inflect(noun)

    def say_determiner(self, number: str, before: str) -> None:
        """A determiner of the given number that fits the sound of the word it stands before."""
        choice = SINGULAR_DETERMINERS if number == "sg" else PLURAL_DETERMINERS
        word = self.dice.weighted(choice, (4, 2, 1, 1))
        if word == "a" and before[0] in "aeiou":
            word = "an"
        self.page.add(word, "det", number=number)

    def say_subject(self) -> None:
        """A determiner and the person noun."""
        self.say_determiner(self.number, self.subject)
        self.page.add(self.subject, "subject", number=self.number, topical=True)

    def say_subject_somewhere(self) -> None:
        """The same, at times with a place between the subject and its verb."""
        self.say_subject()
        if self.dice.chance(0.3):
            self.page.add(self.dice.weighted(("near", "behind"), (3, 1)), "prep")
            self.page.add("the", "det", number="sg")
            self.page.add(self.dice.pick(self.topic.places), "place", number="sg", topical=True)

    def say_pronoun(self) -> None:
        """The pronoun for the subject, at times with an adverb."""
        word = PRONOUNS[self.person] if self.number == "sg" else "they"
        self.page.add(word, "pronoun", number=self.number)
        if self.dice.chance(0.3):
            self.page.add(self.dice.pick(ADVERBS), "adverb")

    def say_action(self, number: str, verb: int | None = None) -> int:
        """A verb in the given number and an object that it takes; gives the verb's index."""
        dice, topic = self.dice, self.topic
        if verb is None:
            verb = dice.below(len(topic.verbs))
        word = topic.verbs[verb]
        self.page.add(
            inflect(word) if number == "sg" else word, "verb", number=number, topical=True
        )
        self.thing_verb = verb
        self.thing_number = dice.pick(("sg", "pl"))
        noun = dice.weighted(topic.objects[verb], (2, 1))
        self.thing = noun if self.thing_number == "sg" else inflect(noun)
        adjective = self.adjective() if dice.chance(0.25) else ""
        self.say_determiner(self.thing_number, adjective or self.thing)
        if adjective:
            self.page.add(adjective, "adjective", topical=True)
        self.thing_at = self.page.add(self.thing, "object", number=self.thing_number, topical=True)
        return verb

    def adjective(self) -> str:
        """An adjective that fits the object: its verb's own, or the next verb's."""
        own, other = self.thing_verb, (self.thing_verb + 1) % len(self.topic.adjectives)
        return self.dice.weighted(
            (self.topic.adjectives[own], self.topic.adjectives[other]), (3, 1)
        )

    def another_verb(self, verb: int) -> int:
        """A verb that usually follows the given one."""
        return (verb + self.dice.weighted((1, 2), (3, 1))) % len(self.topic.verbs)


def _scene(dice: Dice) -> Scene:
    name = dice.pick(tuple(TOPICS))
    topic = TOPICS[name]
    return Scene(Page(name), dice, topic, dice.below(len(topic.people)), dice.pick(("sg", "pl")))


def _action_sentence(scene: Scene, pronoun: bool) -> None:
    if pronoun:
        scene.say_pronoun()
    else:
        scene.say_subject_somewhere()
    verb = scene.say_action(scene.number)
    if scene.dice.chance(0.3):
        scene.page.add("and", "conj")
        scene.say_action(scene.number, scene.another_verb(verb))
    scene.page.add(".", "punct")


def _relative_sentence(scene: Scene) -> None:
    scene.say_subject()
    scene.page.add("who", "relative", number=scene.number)
    verb = scene.say_action(scene.number)
    scene.page.add("also", "adverb")
    scene.say_action(scene.number, scene.another_verb(verb))
    scene.page.add(".", "punct")


def _state_sentence(scene: Scene) -> None:
    number = scene.thing_number
    scene.page.add("the", "det", number=number)
    scene.page.add(scene.thing, "subject", number=number, topical=True, copy_of=scene.thing_at)
    scene.page.add("is" if number == "sg" else "are", "verb", number=number)
    scene.page.add(scene.adjective(), "adjective", topical=True)
    scene.page.add(".", "punct")


def prose(dice: Dice) -> Document:
    """Four to seven sentences about one topic and one subject."""
    scene = _scene(dice)
    _action_sentence(scene, pronoun=False)
    for _ in range(3 + dice.below(4)):
        kind = dice.weighted(("pronoun", "noun", "state", "relative"), (4, 1, 3, 2))
        if kind == "state":
            _state_sentence(scene)
        elif kind == "relative":
            _relative_sentence(scene)
        else:
            _action_sentence(scene, pronoun=kind == "pronoun")
    return scene.page.document("prose", dice.nats)


def _spoken_clause(scene: Scene) -> None:
    scene.page.add("i" if scene.number == "sg" else "we", "pronoun", number=scene.number)
    scene.say_action("pl")


def _quote_first(scene: Scene) -> None:
    scene.page.open_quote()
    _spoken_clause(scene)
    scene.page.add(",", "punct")
    scene.page.close_quote()
    scene.page.add("says" if scene.number == "sg" else "say", "verb", number=scene.number)
    scene.page.add("the", "det", number=scene.number)
    scene.page.add(scene.subject, "subject", number=scene.number, topical=True)
    scene.page.add(".", "punct")


def _quote_last(scene: Scene) -> None:
    scene.say_subject_somewhere()
    scene.page.add("says" if scene.number == "sg" else "say", "verb", number=scene.number)
    scene.page.add(",", "punct")
    scene.page.open_quote()
    for _ in range(1 + scene.dice.below(2)):
        _spoken_clause(scene)
        scene.page.add(".", "punct")
    scene.page.close_quote()


def _question(scene: Scene, asker: str, other: str) -> None:
    page = scene.page
    page.add(asker, "name")
    page.add("asks ,", "verb", number="sg")
    page.open_quote()
    page.add("do you", "pronoun", number="pl")
    start = len(page.labels)
    scene.say_action("pl")
    length = len(page.labels) - start
    page.add("?", "punct")
    page.close_quote()
    page.add(other, "name")
    page.add("answers ,", "verb", number="sg")
    page.open_quote()
    page.add("yes , i", "pronoun", number="sg")
    for at in range(start, start + length):
        said = page.labels[at]
        page.add(
            said.word, said.role, number=said.number, topical=said.topic is not None, copy_of=at
        )
    page.add(".", "punct")
    page.close_quote()


def quote(dice: Dice) -> Document:
    """Speech about one topic: who says what, in marks that have to be closed."""
    scene = _scene(dice)
    asker, other = dice.sample(NAMES, 2)
    for _ in range(3 + dice.below(2)):
        kind = dice.pick(("first", "last", "question", "told"))
        if kind == "first":
            _quote_first(scene)
        elif kind == "last":
            _quote_last(scene)
        elif kind == "question":
            _question(scene, asker, other)
        else:
            _action_sentence(scene, pronoun=False)
    return scene.page.document("quote", dice.nats)
