"""A pattern in words: `on "of"; on "the" after "in" or "at"; and 3 rarer`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_cli.studies.explain.contexts import Contexts, below
from sae_cli.studies.explain.ngrams import Pattern

TOKENS, BEFORE = 8, 4
"""Tokens that are named, and contexts of each."""
Spell = Callable[[Sequence[int]], str]


def spelling(tokenizer: Any) -> Spell:
    """What ids look like, in quotes; -1 is where a block begins."""

    def spell(ids: Sequence[int]) -> str:
        there = [each for each in ids if each >= 0]
        text = json.dumps(tokenizer.decode(there), ensure_ascii=False) if there else ""
        return " ".join(filter(None, ["the start" if len(there) < len(ids) else "", text]))

    return spell


def told(contexts: Contexts, pattern: Pattern, spell: Spell) -> str:
    """The explanation: on which tokens the latent fires, those with the most of its firing first.
    Contexts in which it never fired in training are not named, though it may be said to."""
    on = pattern.fires & (pattern.hits > 0)
    token = below(contexts, 1)
    covered = np.bincount(token[on], pattern.hits[on], len(contexts))
    order = np.argsort(-covered, kind="stable")[: int((covered > 0).sum())]
    said = [_one(contexts, pattern, int(node), spell) for node in order[:TOKENS]]
    more = len(order) - len(said)
    return "; ".join(said + ([f"and {more} rarer"] if more else []))


@dataclass(frozen=True)
class _Part:
    """Contexts of one kind under a token: a node with all below it, or what it has alone."""

    node: int
    alone: bool
    weight: float
    """Tokens: those it fires on, or for what is left out all."""


def _one(contexts: Contexts, pattern: Pattern, node: int, spell: Spell) -> str:
    """What is said of one token."""
    on, off = _parts(contexts, pattern, node)
    name = f"on {spell(contexts.ids(node))}"
    if not off:
        return name
    if len(off) <= len(on) and any(part.node == node for part in on):
        return f"{name}, but not after {_before(contexts, off, node, spell)}"
    return f"{name} after {_before(contexts, [p for p in on if p.weight], node, spell)}"


def _parts(contexts: Contexts, pattern: Pattern, node: int) -> tuple[list[_Part], list[_Part]]:
    """The largest parts under a node in which it is said to fire, and in which it is not."""
    on: list[_Part] = []
    off: list[_Part] = []
    for child in map(int, contexts.children(node)):
        fires, silent = _parts(contexts, pattern, child)
        on, off = on + fires, off + silent
    if contexts.times[node]:
        fires_alone = bool(pattern.fires[node])
        weight = float((pattern.hits if fires_alone else contexts.times)[node])
        (on if fires_alone else off).append(_Part(node, True, weight))
    if not off:
        return [_Part(node, False, sum(part.weight for part in on))], []
    if not on:
        return [], [_Part(node, False, sum(part.weight for part in off))]
    return on, off


def _before(contexts: Contexts, parts: list[_Part], node: int, spell: Spell) -> str:
    order = sorted(parts, key=lambda part: -part.weight)
    shown = order if len(order) == BEFORE + 1 else order[:BEFORE]
    names = []
    for part in shown:
        before = spell(contexts.ids(part.node)[:-1])
        names.append("anything else" if part.node == node else before)
    if more := len(order) - len(shown):
        names.append(f"{more} others")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
