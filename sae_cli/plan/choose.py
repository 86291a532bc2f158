"""Which stages a command means, and which of them it wants done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sae_cli.errors import UsageError
from sae_cli.plan.graph import Graph, Stage
from sae_cli.spec.studies import StudyName
from sae_cli.spec.work import Kind, StudyWork

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
    study: StudyName | None = None,
) -> Choice:
    """What a verb means: exactly what `only` names, else its `kind` (None: all kinds).

    With `upstream`, a kind brings along what it needs. `force` does the verb's own stages again,
    `downstream` all that depends on them too. Of studies only the named `study` is meant, and the
    evaluations of the SAEs that it is of. Raises UsageError when `only` names nothing, and when the
    sweep does not ask for the study.
    """
    kinds: tuple[Kind, ...] = () if kind is None else _WITH.get(kind, (kind,))
    meant = None if study is None else _of_study(graph, study)
    if only:
        named = graph.select(only)
        own = [s for s in named if kind is None or s.kind in kinds]
        own = [s for s in own if meant is None or s in meant]
        if not own:
            raise UsageError(
                f"--only {' '.join(only)}: names no {study or kind} stage of this sweep"
            )
        chosen = own
    elif meant is not None:
        own = meant
        beside = [*_beside(graph, own), *own]
        chosen = graph.upstream(beside) if upstream else beside
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


def asks(graph: Graph, study: StudyName) -> list[Stage]:
    """The stages of a study; none where the sweep does not ask for it."""
    works = ((s, s.work) for s in graph.stages)
    return [s for s, work in works if isinstance(work, StudyWork) and work.study.study == study]


def _of_study(graph: Graph, study: StudyName) -> list[Stage]:
    own = asks(graph, study)
    if not own:
        raise UsageError(
            f"{graph.sweep.spec.name} does not ask for {study}",
            hint=f"`studies: {{{study}: {{}}}}` in the sweep, or --set studies.{study}={{}}",
        )
    return own


def _beside(graph: Graph, studies: Sequence[Stage]) -> list[Stage]:
    """The evaluations beside whose rows those of `studies` stand in the table of results."""
    read = {s.deps["train"].key for s in studies}
    return [s for s in graph.of("eval") if s.deps["train"].key in read]
