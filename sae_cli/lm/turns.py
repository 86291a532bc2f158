"""Chats in packed text, told by the special tokens that the tokenizer's chat template writes.

Blocks hold tokens and which document each is of, not who says what. A template's own special tokens
(`<|im_start|>` on Qwen) tell which documents are chats: plain documents hold none of them. What the
template writes before a message (`<|im_start|>user\\n`) tells whose it is. Both are found by asking
the template, so no text has a say. What can't be told so is told to nobody: a turn that does not
begin as the template begins one has no role, and a template without special tokens of its own has
no chats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jinja2
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sae_cli.lm.encode import end_of_text, special_ids

ROLES = ("assistant", "system", "user")
_MARK = "x"
_ASK = {"role": "user", "content": "y"}
_CHATS: dict[str, tuple[list[dict[str, str]], int]] = {
    "assistant": ([_ASK, {"role": "assistant", "content": _MARK}], -1),
    "system": ([{"role": "system", "content": _MARK}, _ASK], 0),
    "user": ([{"role": "user", "content": _MARK}], -1),
}
"""A chat that ends with, or begins with, a message of each role."""


class Chats(NamedTuple):
    """How a tokenizer's chats look."""

    marks: tuple[int, ...]
    """Special tokens that the template writes, and no plain document holds."""
    specials: tuple[int, ...]
    """All of the tokenizer's but what stands for unknown text: a message ends before any."""
    headers: dict[str, tuple[int, ...]]
    """What stands before a message, from a special token on, by the role that it tells."""


def chats_of(tokenizer: PreTrainedTokenizerBase) -> Chats | None:
    """How chats look to this tokenizer; None where its template has no special token of its own,
    or it has no template."""
    if not tokenizer.chat_template:
        return None
    specials = [i for i in special_ids(tokenizer).tolist() if i != tokenizer.unk_token_id]
    plain = {tokenizer.bos_token_id, tokenizer.pad_token_id, end_of_text(tokenizer)}
    before = {role: found for role in ROLES if (found := _before(tokenizer, role)) is not None}
    text = _rendered(tokenizer, _CHATS["user"][0])
    there = set() if text is None else set(_ids(tokenizer, text))
    marks = tuple(i for i in specials if i in there - plain)
    return Chats(marks, tuple(specials), _headers(before, set(specials))) if marks else None


def roles_of(tokens: NDArray[Any], chats: Chats) -> dict[str, NDArray[np.bool_]]:
    """For each role, which of consecutive tokens [n] are of a message by it: those between what the
    template writes before a message and the next special token."""
    special = np.isin(tokens, chats.specials)
    n = len(tokens)
    stops = np.append(np.flatnonzero(special), n)
    found = {}
    for role, header in chats.headers.items():
        inside, size = np.zeros(n, bool), len(header)
        hits = np.ones(max(0, n - size + 1), bool)
        for i, token in enumerate(header):
            hits &= tokens[i : i + len(hits)] == token
        for start in np.flatnonzero(hits) + size:
            inside[start : stops[np.searchsorted(stops, start)]] = True
        found[role] = inside
    return found


def _headers(before: dict[str, list[int]], specials: set[int]) -> dict[str, tuple[int, ...]]:
    """The shortest ends of what stands before messages that begin with a special token and tell all
    roles apart; none where no ends do."""
    starts = {role: [i for i, t in enumerate(ids) if t in specials] for role, ids in before.items()}
    for back in range(1, min(map(len, starts.values()), default=0) + 1):
        ends = {role: tuple(before[role][starts[role][-back] :]) for role in before}
        if len(set(ends.values())) == len(ends):
            return ends
    return {}


def _before(tokenizer: PreTrainedTokenizerBase, role: str) -> list[int] | None:
    """Tokens before the message of a role; None where the template does not show one alone."""
    chat, which = _CHATS[role]
    marks = ["\ue000", "\ue001"]
    text = _rendered(
        tokenizer, [m | {"content": mark} for m, mark in zip(chat, marks, strict=False)]
    )
    mark = marks[: len(chat)][which]
    return None if text is None or mark not in text else _ids(tokenizer, text[: text.index(mark)])


def _rendered(tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]]) -> str | None:
    known = {"enable_thinking": False} if "enable_thinking" in str(tokenizer.chat_template) else {}
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, **known)
    except (jinja2.TemplateError, TypeError, KeyError):
        return None
    return text if isinstance(text, str) else None


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
