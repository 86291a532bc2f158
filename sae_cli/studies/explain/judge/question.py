"""A question to a language model and its answer, as plain data without any address or key."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sae_cli.spec.studies import JudgeSpec


@dataclass(frozen=True)
class Question:
    """A conversation, and the form that its answer must have."""

    messages: tuple[tuple[str, str], ...]
    """Pairs of role and content."""
    name: str
    """Of the form."""
    schema: dict[str, Any]
    """JSON schema of the answer."""

    @property
    def size(self) -> int:
        """Bytes of the conversation and its form."""
        said = "".join(content for _, content in self.messages) + json.dumps(self.schema)
        return len(said.encode())

    def body(self, spec: JudgeSpec) -> dict[str, Any]:
        """What decides the answer, as the endpoint takes it."""
        out: dict[str, Any] = {
            "model": spec.model,
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "max_tokens": spec.answer_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": self.name, "strict": True, "schema": self.schema},
            },
        }
        return out if spec.temperature is None else out | {"temperature": spec.temperature}

    def key(self, spec: JudgeSpec) -> str:
        """sha256 of that and of the address: another server may have another model of the name."""
        whole = {"base_url": spec.base_url.rstrip("/"), "body": self.body(spec)}
        text = json.dumps(whole, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def again(self, answer: str, trouble: str) -> Question:
        """The same, asked once more after an answer that can't be read."""
        said = f"That can't be used: {trouble}. Answer with the JSON object alone."
        return Question((*self.messages, ("assistant", answer), ("user", said)), self.name,
                        self.schema)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What came back, and what it cost."""

    text: str
    tokens_in: int | None
    """None where the endpoint does not say."""
    tokens_out: int | None
    cut: bool = False
    """Whether it ended because it was too long."""


@dataclass(frozen=True)
class Unanswered:
    """Why there is no answer."""

    reason: str
    billed: bool = False
    """Whether it may have cost something all the same."""
    spent: bool = False
    """Whether it was given up because of the budget, not of the endpoint."""
    lasting: bool = False
    """Whether the server will never take this question, so that to ask again is in vain."""
