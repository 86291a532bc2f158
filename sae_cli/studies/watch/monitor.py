"""Scores of texts by rules over features, each text on its own.

A text is read alone, never beside others, so that its scores are the same to the last bit whatever
comes before or behind it: a threshold is a number that some text has given, and rounding would move
that text over it. What is longer than a window is read in several, one behind the other, none of it
left out; a token sees its own window alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_cli.errors import DataError, UsageError
from sae_cli.spec.rules import Rule, Rules
from sae_cli.studies.watch.live import Live

TOLD = 32
"""Tokens that fired which are named, the strongest; of more, the count."""


@dataclass(frozen=True)
class FiredToken:
    """A token whose own weighted sum is above the threshold."""

    position: int
    """In the text, from 0."""
    text: str
    activation: float
    """The weighted sum, raw activation units."""


@dataclass(frozen=True)
class Score:
    """What a rule says of a text."""

    score: float | None
    """None where no token counts."""
    fired: bool | None
    """None without a score or a threshold."""
    tokens: tuple[FiredToken, ...]
    """Of those that fired the TOLD strongest, in the order of the text."""
    tokens_fired: int


@dataclass(frozen=True)
class Scored:
    """What the rules say of a text."""

    tokens: int
    counted: int
    """Those that count."""
    windows: int
    scores: tuple[Score, ...]
    """In the order of the rules."""


class Monitor:
    """Rules at work on one SAE."""

    def __init__(self, live: Live, rules: Rules) -> None:
        """Raises UsageError for a feature that the SAE does not have, a window that the model can't
        read, and chats without a chat template."""
        self.live, self.rules = live, rules
        for rule in rules.rules:
            for each in rule.features:
                if each.feature >= live.sae.d_sae:
                    raise UsageError(
                        f"rule {rule.name}: the SAE has no feature {each.feature}, it has "
                        f"{live.sae.d_sae}, 0 to {live.sae.d_sae - 1}"
                    )
        limit, wanted = live.reader.context, rules.max_tokens
        if limit is not None and wanted is not None and wanted > limit:
            raise UsageError(f"max_tokens: {wanted}, but the model reads {limit} tokens at once")
        if rules.chat and not live.reader.tokenizer.chat_template:
            raise UsageError("chat: true, but the model's tokenizer has no chat template")
        self.window = wanted or limit
        """Tokens of a window, the one in front of it counted."""
        self._features = sorted({each.feature for r in rules.rules for each in r.features})
        self._weights = torch.stack([self._of(rule) for rule in rules.rules], 1)

    def _of(self, rule: Rule) -> Tensor:
        """float64 [features]: its weights."""
        weights = torch.zeros(len(self._features), dtype=torch.float64)
        for each in rule.features:
            weights[self._features.index(each.feature)] = each.weight
        return weights

    def text_of(self, given: Any) -> str:
        """The text that the model reads. Raises DataError for what is none."""
        if not self.rules.chat:
            if not isinstance(given, str):
                raise DataError(f"{self.rules.text} is {_kind(given)}, not a text")
            return given
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
        if not isinstance(messages, list) or not all(map(_is_message, messages)) or not messages:
            raise DataError(
                f"{self.rules.text} is {_kind(given)}, neither a text nor a list of messages "
                "{role, content}"
            )
        answer = messages[-1]["role"] != "assistant"
        return self.live.reader.chat(
            [{"role": m["role"], "content": m["content"]} for m in messages], answer=answer
        )

    def score(self, text: str) -> Scored:
        """The rules' scores of a text. Raises DataError if it is empty."""
        ids = self.live.reader.tokens(text)
        sums, keep = self._sums(ids)
        return Scored(
            len(ids),
            int(keep.sum()),
            -(-len(ids) // self._stride(ids)),
            tuple(
                self._score(rule, sums[:, i], keep, ids) for i, rule in enumerate(self.rules.rules)
            ),
        )

    def _stride(self, ids: Sequence[int]) -> int:
        return len(ids) if self.window is None else self.window - 1

    def _sums(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """float64 [T, rules], the weighted sums of each token, and which tokens count, bool [T]."""
        sums, keep, stride = [], [], self._stride(ids)
        for start in range(0, len(ids), stride):
            behind = self.live.reader.behind_the_end(ids[start : start + stride])
            values, counts = self.live.columns(behind, self._features)
            sums.append((values[1:, :, None].double().cpu() * self._weights).sum(1))
            keep.append(counts[1:].cpu())
        return torch.cat(sums), torch.cat(keep)

    def _score(self, rule: Rule, sums: Tensor, keep: Tensor, ids: Sequence[int]) -> Score:
        counted = sums[keep]
        if not len(counted):
            return Score(None, None, (), 0)
        score = float(counted.max() if rule.over == "max" else counted.mean())
        if rule.threshold is None:
            return Score(score, None, (), 0)
        where = ((sums > rule.threshold) & keep).nonzero()[:, 0]
        strongest = sums[where].argsort(descending=True, stable=True)[:TOLD]
        told = where[strongest].sort().values.tolist()
        words = self.live.reader.words(torch.tensor([[ids[i] for i in told]])) if told else []
        fired = tuple(
            FiredToken(i, word, float(sums[i])) for i, word in zip(told, words, strict=True)
        )
        return Score(score, score > rule.threshold, fired, len(where))


def _is_message(given: Any) -> bool:
    return isinstance(given, Mapping) and all(
        isinstance(given.get(name), str) for name in ("role", "content")
    )


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "a text")
