"""What an answer says, where it says it in JSON: in a fence or among words too, but never guessed.

Anything else is `Unread`, with what is wrong, and is asked for once more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_YES, _NO = (1, True, "1", "yes", "true"), (0, False, "0", "no", "false")


class Unread(ValueError):
    """An answer that can't be read, and why."""


def explanation(text: str) -> str:
    """The one of `{"explanation": "..."}`."""
    for value in _values(text):
        said = value.get("explanation") if isinstance(value, dict) else None
        if isinstance(said, str) and said.strip():
            return " ".join(said.split())
    raise Unread('there is no {"explanation": "..."} in it')


def answers(text: str, count: int) -> list[bool]:
    """Those of `{"answers": [1, 0, ...]}`, or of the list alone: exactly `count`."""
    wrong = 'there is no {"answers": [...]} in it'
    for value in _values(text):
        listed = value.get("answers") if isinstance(value, dict) else value
        if not isinstance(listed, list):
            continue
        said = [_yes(each) for each in listed]
        if len(said) == count and None not in said:
            return [bool(each) for each in said]
        wrong = f"it must have {count} answers, each 0 or 1"
    raise Unread(wrong)


def _yes(value: Any) -> bool | None:
    plain = value.strip().lower() if isinstance(value, str) else value
    if isinstance(plain, float):
        return None
    return True if plain in _YES else False if plain in _NO else None


def _values(text: str) -> Iterator[Any]:
    """Every JSON object or list that stands in a text, outermost ones, in order."""
    decoder, at = json.JSONDecoder(), 0
    while (start := min((i for i in (text.find("{", at), text.find("[", at)) if i >= 0),
                        default=-1)) >= 0:  # fmt: skip
        try:
            value, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            at = start + 1
            continue
        yield value
