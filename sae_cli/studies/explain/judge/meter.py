"""What answers cost, and whether there is room for one more question.

Before a question is sent, the most that it can cost is set aside; when its answer is there, what
it did cost is counted instead. An endpoint says how many tokens a question had only afterwards.
Until it has, a byte counts as a token, which is the most it can be; later as TWICE the most
tokens a byte that were seen. An answer that is kept from before counts as when it was paid for,
so a run that was killed ends with the same numbers.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sae_cli.spec.studies import JudgeSpec
from sae_cli.studies.explain.judge.question import Answer, Question, Unanswered

TWICE = 2.0
FRAME = 16
"""Tokens that a message has besides its words, at most."""


@dataclass
class Aside:
    """Tokens in and out that are set aside for a question that is under way."""

    tokens_in: int
    tokens_out: int
    held: bool = False


class Meter:
    """Of one SAE; for several threads."""

    def __init__(self, spec: JudgeSpec) -> None:
        self.spec, self.tokens_in, self.tokens_out, self.answers = spec, 0, 0, 0
        self._aside_in, self._aside_out = 0, 0
        self._seen: float | None = None
        self._lock = threading.Lock()

    def set_aside(self, question: Question) -> Aside | None:
        """The most that it may cost, set aside; None where the budget has no room for it."""
        rate = 1.0 if self._seen is None else min(1.0, TWICE * self._seen)
        frame = FRAME * len(question.messages)
        aside = Aside(int(question.size * rate) + frame, self.spec.answer_tokens)
        with self._lock:
            return aside if self._hold(aside) else None

    def lose(self, aside: Aside) -> bool:
        """An attempt had no answer but may be billed: count it as spent. Whether there is room for
        another, which is set aside."""
        with self._lock:
            self._release(aside)
            self._spend(aside.tokens_in, aside.tokens_out)
            return self._hold(aside)

    def settle(self, aside: Aside, question: Question, found: Answer | Unanswered) -> None:
        """Count what came of a question for which `aside` was set aside."""
        with self._lock:
            self._release(aside)
            if isinstance(found, Unanswered):
                if found.billed:
                    self._spend(aside.tokens_in, aside.tokens_out)
                return
            self.answers += 1
            into, out = found.tokens_in, found.tokens_out
            self._spend(
                aside.tokens_in if into is None else into,
                aside.tokens_out if out is None else out,
            )
            if found.tokens_in is not None:
                self._seen = max(self._seen or 0.0, found.tokens_in / max(1, question.size))

    def _hold(self, aside: Aside) -> bool:
        into = self.tokens_in + self._aside_in + aside.tokens_in
        out = self.tokens_out + self._aside_out + aside.tokens_out
        money = cost(self.spec, into, out)
        over = self.spec.max_tokens is not None and into + out > self.spec.max_tokens
        dear = self.spec.max_cost is not None and (money or 0.0) > self.spec.max_cost
        if not over and not dear:
            self._aside_in += aside.tokens_in
            self._aside_out += aside.tokens_out
            aside.held = True
        return aside.held

    def _release(self, aside: Aside) -> None:
        if aside.held:
            self._aside_in -= aside.tokens_in
            self._aside_out -= aside.tokens_out
            aside.held = False

    def _spend(self, tokens_in: int, tokens_out: int) -> None:
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out

    def record(self) -> dict[str, int | float | None]:
        """As plain data."""
        return {
            "answers": self.answers,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "cost": cost(self.spec, self.tokens_in, self.tokens_out),
        }


def cost(spec: JudgeSpec, tokens_in: int, tokens_out: int) -> float | None:
    """In the prices' currency; None without prices."""
    if spec.price_in is None or spec.price_out is None:
        return None
    return (tokens_in * spec.price_in + tokens_out * spec.price_out) / 1e6
