"""Which stages a command means, and which of them it wants done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sae_cli.errors import UsageError
from sae_cli.plan.graph import Graph, Stage
from sae_cli.spec.work import Kind

_WITH: dict[Kind, tuple[Kind, ...]] = {"eval": ("eval", "study")}
"""Kinds that a verb means beside its own."""


@dataclass(frozen=True)
class Choice:
    """Stages to look at, in an order in which they can run, and those to do although done."""

    stages: tuple[Stage, ...]
    force: frozenset[str]
    """Names."""


def choose(
    graph: Graph,
    kind: Kind | None,
    only: Sequence[str] = (),
    *,
    upstream: bool = True,
    force: bool = False,
    downstream: bool = False,
) -> Choice:
    """What a verb means: exactly what `only` names, else its `kind` (None: all kinds).

    With `upstream`, a kind brings along what it needs. `force` does the verb's own stages again,
    `downstream` all that depends on them too. Raises UsageError when `only` names nothing.
    """
    kinds: tuple[Kind, ...] = () if kind is None else _WITH.get(kind, (kind,))
    if only:
        named = graph.select(only)
        own = [s for s in named if kind is None or s.kind in kinds]
        if not own:
            raise UsageError(f"--only {' '.join(only)}: names no {kind} stage of this sweep")
        chosen = own
    else:
        own = list(graph.stages) if kind is None else graph.of(*kinds)
        chosen = graph.upstream(own) if upstream else own
    again = {s.name for s in own} if force or downstream else set()
    if downstream:
        for s in graph.stages:  # in order, so one pass reaches all
            if any(d.name in again for d in s.deps.values()):
                again.add(s.name)
    wanted = again | {s.name for s in chosen}
    return Choice(tuple(s for s in graph.stages if s.name in wanted), frozenset(again))
