"""What a judge will be asked and what that will cost, about, said before the first question.

All questions are made for it, with an explanation of a usual length in place of the one that is
not known yet, and counted at BYTES bytes a token, as English is by most tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sae_cli.spec.studies import JudgeSpec
from sae_cli.studies.explain.judge.meter import cost
from sae_cli.studies.explain.judge.question import Question
from sae_cli.studies.explain.protocol import Examples
from sae_cli.studies.explain.units import Unit

BYTES = 4
WORDS = "x" * 120
Judging = Callable[[Examples, str], Iterable[tuple[str, Any, Question]]]


def estimate(
    spec: JudgeSpec,
    explain: Callable[[Unit], Question],
    judging: Judging,
    units: Mapping[str, Sequence[Unit]],
) -> str:
    """One line, for all SAEs whose `units` are judged."""
    calls, size = 0, 0
    for unit in (unit for each in units.values() for unit in each):
        assert isinstance(unit.examples, Examples)
        questions = [explain(unit), *(each for *_, each in judging(unit.examples, WORDS))]
        calls += len(questions)
        size += sum(question.size for question in questions)
    sent, answered = size // BYTES, calls * spec.answer_tokens
    money = cost(spec, sent, answered)
    limits = [
        *([] if spec.max_tokens is None else [f"{spec.max_tokens:,} tokens"]),
        *([] if spec.max_cost is None else [f"{spec.max_cost:g} in money"]),
    ]
    return (
        f"judge {spec.model}: {calls:,} questions about {sum(map(len, units.values()))} latents of "
        f"{len(units)} SAEs, about {sent:,} tokens to send, at most {answered:,} to be answered"
        + ("" if money is None else f", at most about {money:.2f} in money")
        + f"; for each SAE no more than {' and '.join(limits)}"
    )
