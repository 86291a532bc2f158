"""Conversations: requests that are answered or refused, and a little small talk."""

from __future__ import annotations

from .dice import Dice
from .lexicon import COLORS, GIFTS, NAMES, NUMBERS
from .page import Document, Message, Page
from .prompts import draw_request, write_request
from .replies import write_answer, write_refusal

_ECHO_WORDS = COLORS + NUMBERS + GIFTS


def _asks(page: Page, dice: Dice) -> list[Message]:
    request = draw_request(dice, "train", dice.chance(0.4))
    start = page.open_turn("user")
    write_request(page, dice, request)
    question = page.close_turn(start)
    start = page.open_turn("assistant")
    if request.harmful:
        write_refusal(page, dice)
    else:
        write_answer(page, dice, request)
    return [question, page.close_turn(start)]


def _introduces(page: Page, dice: Dice) -> list[Message]:
    start = page.open_turn("user")
    page.add("hello , my name is", "frame")
    name = dice.pick(NAMES)
    at = page.add(name, "name_source")
    page.add(".", "punct")
    first = page.close_turn(start)
    start = page.open_turn("assistant")
    page.add("hello", "opener")
    page.add(name, "name_target", copy_of=at)
    page.add(", how can i help you ?", "closing")
    return [first, page.close_turn(start)]


def _echoes(page: Page, dice: Dice) -> list[Message]:
    items = dice.sample(_ECHO_WORDS, 2 + dice.below(3))
    start = page.open_turn("user")
    page.add("please say", "frame")
    source = len(page.labels)
    for item in items:
        page.add(item, "copy_source")
    page.add(".", "punct")
    first = page.close_turn(start)
    start = page.open_turn("assistant")
    page.add(" ".join(items), "copy_target", copy_of=source)
    page.add(".", "punct")
    return [first, page.close_turn(start)]


def chat(dice: Dice) -> Document:
    """One or two exchanges between a user and the assistant, at times after a system message."""
    page = Page()
    messages: list[Message] = []
    if dice.chance(0.05):
        start = page.open_turn("system")
        page.add("you are a helpful assistant .", "frame")
        messages.append(page.close_turn(start))
    for _ in range(dice.weighted((1, 2), (2, 1))):
        kind = dice.weighted((_asks, _introduces, _echoes), (8, 1, 1))
        messages += kind(page, dice)
    return page.document("chat", dice.nats, messages)
