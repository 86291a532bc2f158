"""Which stages a command means, and which of them it wants done again."""

from __future__ import annotations

from collections.abc import Sequence

from sae_cli.errors import UsageError
from sae_cli.plan.graph import Graph, Stage
from sae_cli.spec.work import Kind


def choose(graph: Graph, kind: Kind | None, only: Sequence[str]) -> list[Stage]:
    """The stages a verb means: its kind and what that needs, or exactly what `--only` names."""
    if only:
        named = graph.select(only)
        chosen = [s for s in named if kind is None or s.kind == kind]
        if not chosen:
            raise UsageError(f"--only {' '.join(only)}: names no {kind} stage of this sweep")
        return chosen
    return list(graph.stages) if kind is None else graph.upstream(graph.of(kind))


def forced(
    graph: Graph, kind: Kind | None, chosen: Sequence[Stage], force: bool, downstream: bool
) -> set[str]:
    """Names of the stages to do again: the chosen ones of the verb's kind, and their dependants."""
    if not (force or downstream):
        return set()
    names = {s.name for s in chosen if kind is None or s.kind == kind}
    if downstream:
        for s in graph.stages:  # in order, so one pass reaches all
            if any(d.name in names for d in s.deps.values()):
                names.add(s.name)
    planned = {s.name for s in chosen}
    return names & planned if not downstream else names
