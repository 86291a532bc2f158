"""How a stage verb ends: what came of each sweep, for a person or as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sae_cli.cli import render
from sae_cli.cli.output import PushLine, RunOutput, SweepRun, run_line
from sae_cli.cli.progress import clock
from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.place import folder
from sae_cli.report.elbow import elbows
from sae_cli.report.results import rows as result_rows
from sae_cli.run.base import Result
from sae_cli.store.layout import Workspace


@dataclass(frozen=True)
class Outcome:
    """What came of one sweep."""

    graph: Graph
    chosen: Sequence[Stage]
    results: Sequence[Result]
    waiting: int
    """Stages that were left, because what they need is not there."""
    freed: Sequence[Stage]
    """Activations that are left freed, because nothing that runs reads them."""
    handed_over: bool = False
    """What is to do was given to a cluster, which does it later."""


def line(result: Result) -> str:
    """How a stage ended, in a line."""
    took = f" in {clock(result.seconds)}" if result.ending == "done" else ""
    why = f": {result.cause.splitlines()[0]}" if result.cause else ""
    return f"{result.ending:<8}{result.stage.name}{took}{why}"


def show(outcome: Outcome, workspace: Workspace) -> None:
    """Print what came of a sweep: counts, results where there are some, the release."""
    name, chosen = outcome.graph.sweep.spec.name, outcome.chosen
    if outcome.handed_over:
        return
    if chosen and not outcome.results:
        print(f"{name}: nothing to do, {len(chosen)} stages are done")
    elif not any(s.kind in ("eval", "release") for s in chosen):
        ended = Counter(r.stage.kind for r in outcome.results if r.ending in ("done", "skipped"))
        print(
            f"{name}: "
            + (", ".join(f"{n} {kind}" for kind, n in ended.items()) or "none")
            + " done"
        )
    if outcome.freed and {s.kind for s in chosen} <= {"tokens", "cache"}:
        print(f"{name}: the activations of {_listed(outcome.freed)} were freed by gc")
        some = len(outcome.freed) < sum(s.kind == "cache" for s in chosen)
        only = "".join(f"--only {s.key} " for s in outcome.freed if some)
        print(f"  to capture them again: saectl cache SPEC {only}--force")
    if outcome.waiting:
        print(
            f"{name}: {outcome.waiting} stages wait for what comes before them "
            f"(saectl status shows it; saectl run does it)"
        )
    found = result_rows(outcome.graph, workspace)
    if found and any(s.kind in ("eval", "release") for s in chosen):
        render.results(found)
        render.elbows(elbows(found))
    for path in released(outcome, workspace):
        print(f"release: {path}")


def _listed(stages: Sequence[Stage]) -> str:
    return ", ".join(s.name for s in stages)


def print_json(outcomes: Sequence[Outcome], workspace: Workspace, pushed: PushLine | None) -> None:
    """All of it, for programs."""
    runs = tuple(
        SweepRun(
            sweep=outcome.graph.sweep.spec.name,
            stages=tuple(run_line(r) for r in outcome.results),
            waiting=outcome.waiting,
            results=tuple(found := result_rows(outcome.graph, workspace)),
            elbows=tuple(elbows(found)),
            release=next(iter(released(outcome, workspace)), None),
            pushed=pushed,
        )
        for outcome in outcomes
    )
    print(RunOutput(sweeps=runs).model_dump_json(indent=2))


def released(outcome: Outcome, workspace: Workspace) -> list[str]:
    """Folders of the chosen releases that are there, unless making one anew has just failed."""
    wrong = {r.stage.name for r in outcome.results if r.ending not in ("done", "skipped")}
    releases = [s for s in outcome.chosen if s.kind == "release" and s.name not in wrong]
    places = [folder(workspace, s) for s in releases]
    return [str(p.path / outcome.graph.sweep.spec.name) for p in places if p.done.is_file()]
