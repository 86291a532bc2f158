"""The local executor: the jobs of a sweep one after another, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sae_cli.errors import Interrupted
from sae_cli.plan.graph import Stage
from sae_cli.plan.jobs import Job, coalesce
from sae_cli.plan.memory import Limits, fitted
from sae_cli.plan.place import folder, serves
from sae_cli.run.base import Result, run_job
from sae_cli.run.context import Context
from sae_cli.run.torchrun import launch
from sae_cli.run.world import processes, refuse_unfit, world_size
from sae_cli.store.records.ledger import is_done
from sae_cli.store.records.status import Status, state

POLL_S = 0.5


def run(
    stages: Sequence[Stage],
    context: Context,
    *,
    keep_going: bool = False,
    on_result: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Run `stages` (in an order in which they can run) and return how each ended.

    A stage that another process holds is waited for: when that process finishes, it counts as
    skipped; when it dies, the stage is taken over. After a failure the rest is left, or, with
    `keep_going`, all that does not depend on it is done. Raises Interrupted on a stop.
    """
    refuse_unfit(stages)
    results: dict[str, Result] = {}
    pending = list(stages)
    told: set[str] = set()

    def settle(result: Result) -> None:
        results[result.stage.name] = result
        pending.remove(result.stage)
        if on_result is not None:
            on_result(result)

    while pending:
        before = len(pending)
        for job in coalesce(pending):
            ready = [s for s in job.stages if _ready(s, results, pending, context, settle)]
            for stages in _passes(ready, context):
                if context.stop():
                    raise Interrupted(
                        f"interrupted: {len(pending)} stages are left for the next run"
                    )
                for result in _run(stages, context):
                    if result.ending == "busy":
                        if result.stage.name not in told:
                            told.add(result.stage.name)
                            context.report.note(f"waiting: {result.cause}")
                        continue
                    settle(result)
                if not keep_going and any(r.ending == "failed" for r in results.values()):
                    return list(results.values())
        if len(pending) == before:
            if context.stop():
                raise Interrupted(
                    f"interrupted: {before} stages are left to the process that holds them, "
                    "or to the next run"
                )
            time.sleep(POLL_S)
    return list(results.values())


def _run(stages: tuple[Stage, ...], context: Context) -> list[Result]:
    """One pass, here or in processes of its own."""
    if processes(stages[0]) > 1 and world_size() is None:
        return launch(stages, context)
    return run_job(Job(stages), context)


def _passes(ready: Sequence[Stage], context: Context) -> list[tuple[Stage, ...]]:
    """The stages of a job that can run, in as many passes as the memory of trainings asks for."""
    if len(ready) < 2 or ready[0].kind != "train":
        return [tuple(ready)] if ready else []
    passes = fitted(ready, _limits(context))
    if len(passes) > 1:
        context.report.note(
            f"{len(ready)} SAEs on {ready[0].deps['cache'].slug} train in {len(passes)} passes: "
            "together they need more memory than there is"
        )
    return passes


def _limits(context: Context) -> Limits:
    from sae_cli.stages.grid_memory import free_memory  # torch comes with it

    device, host = free_memory(context.device)
    if context.memory is None:
        return Limits(device, host)
    return Limits(None, context.memory) if device is None else Limits(context.memory, host)


def _ready(
    stage: Stage,
    results: dict[str, Result],
    pending: Sequence[Stage],
    context: Context,
    settle: Callable[[Result], None],
) -> bool:
    """Whether the inputs of `stage` are there; settles it as blocked when they never will be."""
    place = folder(context.workspace, stage)
    if stage.name not in context.force and is_done(place):
        return True  # `run_job` will say so
    for dep in stage.deps.values():
        if any(dep.name == p.name for p in pending):
            return False
        ended = results.get(dep.name)
        status = state(folder(context.workspace, dep)).status
        if serves(status, dep, stage):
            continue
        if status is Status.RUNNING:
            return False
        why = ended.ending if ended is not None else f"is {status}"
        settle(Result(stage, "blocked", place.path, f"needs {dep.name}, which {why}"))
        return False
    return True
