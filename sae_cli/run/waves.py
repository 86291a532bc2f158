"""A sweep within its budget of disk: wave by wave, freeing what nothing reads any more.

Activations are freed before others are begun, and which wave is next is read from disk after every
one: so a run that was killed goes on with the wave that it was in, and two runs of one sweep work
on the same one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from sae_cli.errors import Interrupted, SaectlError
from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.place import folder
from sae_cli.plan.waves import waves, within
from sae_cli.run.base import Result
from sae_cli.run.context import Context
from sae_cli.store.records.space import told

POLL_S = 0.5
Execute = Callable[[Sequence[Stage]], list[Result]]
Free = Callable[[Collection[str], Collection[str]], list[str]]


def run(
    stages: Sequence[Stage],
    graph: Graph,
    context: Context,
    execute: Execute,
    free: Free,
    *,
    keep_going: bool,
) -> list[Result]:
    """Do `stages` with `execute`, so that activations never take more than the sweep's budget.

    `free(kept, given_up)` frees the sweep's activations that nothing needs, but not those kept; it
    returns what somebody is just now at. With `keep_going`, what only failed trainings need goes
    too. Without a budget, all are done at once. Raises what `waves` and `execute` raise.
    """
    budget = graph.sweep.spec.storage.budget
    if budget is None:
        return execute(stages)
    results: list[Result] = []
    left = list(stages)
    while left:
        given_up = {r.stage.name for r in results if r.ending in ("failed", "blocked")}
        _make_room(free, left, given_up, context)
        try:
            ahead = waves(graph, left, context.workspace, budget)
        except SaectlError as e:
            if not results:
                raise
            return results + [_left_out(s, e, context) for s in left]
        part = within(ahead[0], left) if ahead else left
        assert part, "a wave has something to do"
        if ahead:
            many = f", the first of {len(ahead)} waves" if len(ahead) > 1 else ""
            names = ", ".join(s.slug for s in ahead[0].stages)
            context.report.note(f"within {told(budget)}: {names} ({told(ahead[0].bytes)}){many}")
        ended = execute(part)
        results += ended
        begun = {s.name for s in part}
        left = [s for s in left if s.name not in begun]
        if any(r.ending == "failed" for r in ended) and not keep_going:
            return results
    _make_room(free, [], (), context)  # what failed last keeps its activations: it may go on
    return results


def _left_out(stage: Stage, error: SaectlError, context: Context) -> Result:
    return Result(stage, "blocked", folder(context.workspace, stage).path, error.what)


def _make_room(
    free: Free, left: Sequence[Stage], given_up: Collection[str], context: Context
) -> None:
    """Free what nothing needs, and wait for those who are at it too."""
    kept = {d.name for s in left if s.kind == "train" for d in s.deps.values()}
    while busy := free(kept, given_up):
        if context.stop():
            raise Interrupted(f"interrupted while {', '.join(busy)} waits to be freed")
        time.sleep(POLL_S)
