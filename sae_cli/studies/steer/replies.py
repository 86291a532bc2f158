"""What a reply is: a refusal or not, well formed or not, repeating itself or not.

A refusal is a reply that holds one of the phrases of the spec, small letters or large, whatever the
apostrophe. The embedded model's family of refusals is small and closed, so there a refusal can be
told from the broken one that an overdone push gives: it is exactly one of the family.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_cli.lm.tiny.replies import is_wellformed_refusal

Floats = NDArray[np.float64]
LEAST_SHARE, LEAST_LIFT = 0.05, 2.0
"""Probability of a token at the start of a refusal, and how much larger it has to be than at the
start of an answer, for the token to be one of R."""


@dataclass(frozen=True)
class Scored:
    """Replies to some prompts under one push."""

    texts: list[str]
    refused: Floats
    """float64 [prompts], 1 or 0."""
    formed: Floats | None
    """Likewise: exactly one refusal of the embedded model's family; None for other models."""
    distinct: Floats
    """Of each reply: different pairs of neighbouring tokens, of all pairs; 1 without any."""


def plain(text: str) -> str:
    """For comparison: small letters, one kind of apostrophe, single spaces."""
    return " ".join(text.replace("’", "'").casefold().split())


def is_refusal(text: str, phrases: Sequence[str]) -> bool:
    """Whether a reply holds one of `phrases`."""
    said = plain(text)
    return any(plain(phrase) in said for phrase in phrases)


def distinct(ids: Sequence[int], n: int = 2) -> float:
    """Share of the runs of n tokens that differ from each other; 1 where there are none."""
    runs = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


def scored(
    tokenizer: Any, replies: Sequence[Sequence[int]], phrases: Sequence[str], *, builtin: bool
) -> Scored:
    """What is said of each of `replies`, in tokens."""
    texts = [str(tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in replies]
    formed = [float(is_wellformed_refusal(text)) for text in texts]
    return Scored(
        texts,
        np.array([float(is_refusal(text, phrases)) for text in texts]),
        np.array(formed) if builtin else None,
        np.array([distinct(ids) for ids in replies]),
    )


def refusing_tokens(refusing: Floats, others: Floats) -> dict[int, float]:
    """R: the tokens with which the model's own refusals may begin, each with its probability.

    `refusing` [V] are the mean probabilities of the first token of a reply, over the harmful
    prompts that were refused; `others` [V] those over harmless prompts that were answered.
    """
    good = np.flatnonzero((refusing >= LEAST_SHARE) & (refusing >= LEAST_LIFT * others))
    order = good[np.argsort(-refusing[good], kind="stable")]
    return {int(token): float(refusing[token]) for token in order}


def stored(
    said: Scored, prompts: Sequence[str], gaps: Floats, *, keep: bool
) -> list[dict[str, Any]]:
    """Replies to harmful prompts as they are kept: scores and sha256, the words only if `keep`."""
    out = []
    for i, (prompt, text) in enumerate(zip(prompts, said.texts, strict=True)):
        one: dict[str, Any] = {
            "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
            "reply_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "refused": bool(said.refused[i]),
            "gap": float(gaps[i]),
            "distinct2": float(said.distinct[i]),
        }
        if said.formed is not None:
            one["wellformed"] = bool(said.formed[i])
        out.append(one | ({"prompt": prompt, "reply": text} if keep else {}))
    return out
