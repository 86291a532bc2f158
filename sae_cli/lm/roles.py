"""Where each message stands in a rendered chat, and which tokens lie in messages that count.

A template may trim a message, drop its thinking, or move system text. So the chat is rendered a
second time with a mark in place of every message: what the template writes around the marks tells
where to look, and a message that reads like a role name or a marker is not mistaken for one.
A message that can't be found is an error and never a guess. Text in, positions out: it knows no
tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sae_cli.errors import DataError

Span = tuple[int, int]
"""Characters [start, stop) of a text."""
_AROUND = (32, 8)  # characters of the template's own text that must stand around a message
_THINKING = "</think>"


def kept_spans(
    contents: Sequence[str],
    kept: Sequence[bool],
    render: Callable[[Sequence[str]], str],
    where: str,
) -> tuple[str, list[Span]]:
    """`render(contents)`, and in it the spans of the messages that are `kept`, in order.

    Where the template drops a message's thinking (all up to `</think>`) or the space around it,
    the span is what is left of it. Raises DataError naming `where` and the message's number when
    a kept message with text in it is not there.
    """
    text = render(contents)
    marks = [f"\ue000{number}\ue001" for number in range(len(contents))]
    shape = render(marks)
    places = sorted((shape.find(mark), number) for number, mark in enumerate(marks))
    shown = [(at, number) for at, number in places if at >= 0]
    edges = [0, *(at + len(marks[number]) for at, number in shown)]
    between = [
        shape[a:b] for a, b in zip(edges, [*(at for at, _ in shown), len(shape)], strict=True)
    ]
    found: dict[int, Span] = {}
    cursor = 0
    for order, (_, number) in enumerate(shown):
        span = _find(text, contents[number], between[order], between[order + 1], cursor)
        if span is not None:
            found[number], cursor = span, span[1]
    missing = [
        number
        for number, content in enumerate(contents)
        if kept[number] and content.strip() and number not in found
    ]
    if missing:
        raise DataError(
            f"{where}: message {missing[0] + 1} is not found in what the chat template makes of "
            "these messages, so its tokens can't be told apart",
            hint="mend or drop that document, take its role out of data.train_on, or leave "
            "data.train_on out.",
        )
    return text, [found[number] for number in sorted(found) if kept[number]]


def inside(offsets: NDArray[np.int64], spans: Sequence[Span]) -> NDArray[np.bool_]:
    """True for each token that shares at least one character with one of `spans`.

    `offsets` int64 [n, 2] are the characters [start, stop) of each token, ascending. A token
    whose own space a tokenizer trimmed away to nothing stands for what lies before it.
    """
    start, stop = offsets[:, 0], offsets[:, 1]
    before = np.concatenate([[0], stop[:-1]])
    start = np.where(start == stop, np.minimum(before, start), start)
    out = np.zeros(len(offsets), np.bool_)
    for first, last in spans:
        out |= (start < last) & (stop > first) & (start < stop)
    return out


def _find(text: str, content: str, before: str, after: str, cursor: int) -> Span | None:
    """The first place behind `cursor` where the message stands between the template's text."""
    for around in _AROUND:
        head, tail = before[-around:], after[:around]
        for said in _variants(content):
            at = text.find(head + said + tail, cursor)
            if at >= 0:
                return at + len(head), at + len(head) + len(said)
    return None


def _variants(content: str) -> Iterator[str]:
    """The message as templates show it: whole, trimmed, without its thinking. Never empty."""
    answer = content.rpartition(_THINKING)[2]
    forms = [
        form(said)
        for said in (content, answer)
        for form in (str, str.strip, str.lstrip, str.rstrip)
    ]
    yield from (said for said in dict.fromkeys(forms) if said)
