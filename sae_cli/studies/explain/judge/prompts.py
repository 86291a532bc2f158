"""What a language model is asked: to explain a latent, and to judge windows by an explanation.

Tokens stand in a window as the tokenizer spells them, marked ones between << and >>, neighbours
together. Each window is a JSON text on a line of its own, so that no line break of the text
looks like the end of one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from sae_cli.studies.explain.arrays import Acts, Flags, Tokens
from sae_cli.studies.explain.judge.question import Question
from sae_cli.studies.explain.protocol import MARKED

STRENGTHS = 8
"""Tokens of a window whose strengths are told."""
_EXPLAIN = """\
A feature of a language model is active on some tokens of texts. You are shown excerpts, one a \
line, with the tokens on which it is most active between << and >>, and for these how strongly, \
from 0 to 10. Find what they have in common: the tokens themselves, what stands before them, or \
what they are about. Say in one short sentence on what the feature is active, so that somebody \
who sees other texts can tell. Answer with a JSON object: {"explanation": "..."}."""
_DETECT = """\
A feature of a language model is active on some tokens of texts. You are told on what, and shown \
numbered excerpts. For each, say 1 if the feature is active on some token of it, else 0. Answer \
with a JSON object that has one number for each excerpt, in their order: {"answers": [1, 0, ...]}.\
"""
_FUZZ = """\
A feature of a language model is active on some tokens of texts. You are told on what, and shown \
numbered excerpts with some tokens between << and >>. For each, say 1 if the marked tokens are \
those on which the feature is active, 0 if other tokens are marked. Answer with a JSON object \
that has one number for each excerpt, in their order: {"answers": [1, 0, ...]}."""
_ANSWERS: dict[str, Any] = {
    "type": "object",
    "properties": {"answers": {"type": "array", "items": {"type": "integer", "enum": [0, 1]}}},
    "required": ["answers"],
    "additionalProperties": False,
}
_EXPLANATION: dict[str, Any] = {
    "type": "object",
    "properties": {"explanation": {"type": "string"}},
    "required": ["explanation"],
    "additionalProperties": False,
}


class Asker:
    """Makes questions in a model's tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def explain(self, windows: Tokens, values: Acts) -> Question:
        """Of windows `[n, size]` in which the latent has the activations `values`."""
        top = float(values.max())
        lines = []
        for tokens, acts in zip(windows, values, strict=True):
            marked = acts >= MARKED * acts.max()
            strongest = np.argsort(-acts, kind="stable")[: min(STRENGTHS, int(marked.sum()))]
            told = ", ".join(
                f"{self._spell(tokens[i : i + 1])} {round(10 * float(acts[i]) / top)}"
                for i in sorted(strongest.tolist())
            )
            lines.append(f"{self._line(tokens, marked)} strengths: {told}")
        return _question(_EXPLAIN, "\n".join(lines), "explanation", _EXPLANATION)

    def detect(self, explanation: str, windows: Tokens) -> Question:
        """Whether it fires in each of `windows [n, size]`."""
        lines = [self._spell(tokens) for tokens in windows]
        return _question(_DETECT, _numbered(explanation, lines), "answers", _ANSWERS)

    def fuzz(self, explanation: str, windows: Tokens, marks: Flags) -> Question:
        """Whether the `marks [n, size]` of `windows` are right."""
        lines = [self._line(*each) for each in zip(windows, marks, strict=True)]
        return _question(_FUZZ, _numbered(explanation, lines), "answers", _ANSWERS)

    def _spell(self, tokens: Tokens) -> str:
        return json.dumps(self._decoded(tokens), ensure_ascii=False)

    def _line(self, tokens: Tokens, marked: Flags) -> str:
        text = ""
        for mark, run in groupby(range(len(tokens)), lambda i: bool(marked[i])):
            said = self._decoded(tokens[list(run)])
            text += f"<<{said}>>" if mark else said
        return json.dumps(text, ensure_ascii=False)

    def _decoded(self, tokens: Tokens) -> str:
        return str(self._tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False))


def _numbered(explanation: str, lines: Sequence[str]) -> str:
    excerpts = "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))
    return f"The feature is active on: {explanation}\n\n{excerpts}"


def _question(task: str, said: str, name: str, schema: dict[str, Any]) -> Question:
    return Question((("system", task), ("user", said)), name, schema)
