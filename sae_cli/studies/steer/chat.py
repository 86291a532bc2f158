"""A prompt as the model reads it: its chat template, thinking off, up to where the answer begins.

The tokens of a prompt are the template's own before the instruction, the instruction's, and the
template's after it, the last of which is the last prompt token. Nothing stands in front, and the
first position, where attention sinks are, is neither read nor edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sae_cli.errors import DataError

_MARK = "\ue000"


@dataclass(frozen=True)
class Asked:
    """One prompt, in tokens."""

    ids: tuple[int, ...]
    start: int
    """Where the instruction begins: at 1 at least."""
    stop: int
    """Behind its last token: what follows is the template's."""


def rendered(tokenizer: Any, text: str) -> str:
    """The chat of one user message. Raises DataError where there is no chat template."""
    if not tokenizer.chat_template:
        raise DataError(
            "the model's tokenizer has no chat template, and the study of refusal asks as a user",
            hint="study an instruct model, or leave out studies.steering.",
        )
    known = {"enable_thinking": False} if "enable_thinking" in str(tokenizer.chat_template) else {}
    found = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, **known
    )
    assert isinstance(found, str)
    return found


def asked(tokenizer: Any, texts: Sequence[str]) -> list[Asked]:
    """Each of `texts`, in order."""
    whole = rendered(tokenizer, _MARK)
    if whole.count(_MARK) != 1:
        raise DataError("the model's chat template does not show what a user says once")
    before, after = (_ids(tokenizer, part) for part in whole.split(_MARK))
    found = []
    for text in texts:
        ids = _ids(tokenizer, rendered(tokenizer, text))
        start, stop = _same(ids, before), len(ids) - _same(ids[::-1], after[::-1])
        start = max(1, min(start, stop - 1))
        found.append(Asked(tuple(ids), start, max(stop, start + 1)))
    return found


def template_tokens(some: Sequence[Asked]) -> int:
    """How many tokens of the template follow every instruction."""
    return min(len(each.ids) - each.stop for each in some)


def by_length(some: Sequence[Asked]) -> dict[int, list[int]]:
    """The numbers of prompts, by how many tokens they have; shortest first."""
    found: dict[int, list[int]] = {}
    for number, each in enumerate(some):
        found.setdefault(len(each.ids), []).append(number)
    return dict(sorted(found.items()))


def _same(ids: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    count = 0
    while count < min(len(ids), len(other)) and ids[count] == other[count]:
        count += 1
    return count


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
