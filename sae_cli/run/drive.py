"""The loop of every executor that stays: what can start is handed to a pool, what ended is settled.

A pool does jobs: in this process one after another, in processes beside each other, on a cluster
of Ray. The loop holds no truth: whether inputs are there, and what became of a job, it reads from
disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from sae_cli.errors import Interrupted
from sae_cli.plan.graph import Stage
from sae_cli.plan.jobs import coalesce
from sae_cli.plan.place import folder, serves
from sae_cli.plan.spread import parts, spread
from sae_cli.run.base import Result
from sae_cli.run.context import Context
from sae_cli.run.world import refuse_unfit
from sae_cli.stages.task import SHARED
from sae_cli.store.records.ledger import is_done
from sae_cli.store.records.status import Status, state

POLL_S = 0.5


class Running(Protocol):
    """A job that was handed over."""

    stages: tuple[Stage, ...]

    def poll(self) -> list[Result] | None:
        """How each stage ended, or None while the job runs. `busy`: it is to be tried again."""

    def ask(self) -> None:
        """Ask it to save and leave."""


class Pool(Protocol):
    """Where jobs run."""

    @property
    def width(self) -> int:
        """How many jobs run beside each other, about: those that can be split are, to fill it."""

    def passes(self, stages: tuple[Stage, ...]) -> list[tuple[Stage, ...]]:
        """A job cut into those that are handed over one by one."""

    def start(self, stages: tuple[Stage, ...]) -> Running | None:
        """Begin a job, or None while there is no room for it."""


def run(
    stages: Sequence[Stage],
    context: Context,
    pool: Pool,
    *,
    keep_going: bool = False,
    wait: bool = True,
    on_result: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Run `stages` (in an order in which they can run) and return how each ended.

    A stage that another process holds is waited for: when that process finishes, it counts as
    skipped; when it dies, the stage is taken over. After a failure the rest is left, or, with
    `keep_going`, all that does not depend on it is done. Without `wait`, what others hold is left
    to them, and has no result. Raises Interrupted on a stop, once what was handed over has saved
    and left.
    """
    refuse_unfit(stages)
    loop = _Loop(stages, context, pool, keep_going, wait, on_result)
    try:
        return loop.run()
    except BaseException:
        for work in loop.running:
            work.ask()
        raise


class _Loop:
    def __init__(
        self,
        stages: Sequence[Stage],
        context: Context,
        pool: Pool,
        keep_going: bool,
        wait: bool,
        on_result: Callable[[Result], None] | None,
    ) -> None:
        self.results: dict[str, Result] = {}
        self.stages, self.pending = tuple(stages), list(stages)
        self.running: list[Running] = []
        self.told: set[str] = set()
        self.asked = False
        self.context, self.pool = context, pool
        self.keep_going, self.wait, self.on_result = keep_going, wait, on_result

    def run(self) -> list[Result]:
        if self.pool.width > 1:  # otherwise a job tells how far it is itself
            self.context.report.begin("stages", len(self.pending), 0, "stages")
        while self.pending or self.running:
            before = len(self.pending), len(self.running)
            self._collect()
            if self.context.stop():
                self._leave()
            elif not self._over():
                self._start()
            if self._over() and not self.running:
                break
            if (len(self.pending), len(self.running)) == before:
                if not (self.wait or self.running or self._shared_pending()):
                    break
                time.sleep(POLL_S)
        return list(self.results.values())

    def _over(self) -> bool:
        """Whether nothing more is to be begun."""
        failed = any(r.ending == "failed" for r in self.results.values())
        return failed and not self.keep_going

    def _leave(self) -> None:
        for work in self.running if not self.asked else []:
            work.ask()
        self.asked = True
        if not self.running:
            raise Interrupted(
                f"interrupted: {len(self.pending)} stages are left for the next run, or to "
                "the process that holds them"
            )

    def _start(self) -> None:
        for job in spread(coalesce(self._idle()), self.pool.width):
            ready = tuple(s for s in job.stages if self._ready(s))
            for part in self.pool.passes(ready) if ready else []:
                if self.context.stop() or self._over():
                    return
                work = self.pool.start(part)
                if work is not None:
                    self.running.append(work)
                    self._collect()
        self._help()

    def _idle(self) -> list[Stage]:
        """What nobody was given yet."""
        given = {s.name for work in self.running for s in work.stages}
        return [s for s in self.pending if s.name not in given]

    def _help(self) -> None:
        """Give what is left of the pool to jobs that several processes may share."""
        for work in list(self.running) if self.pool.width > 1 else []:
            first = work.stages[0]
            there = sum(other.stages == work.stages for other in self.running)
            most = min(self.pool.width, parts(first)) if first.kind in SHARED else 1
            forced = any(s.name in self.context.force for s in work.stages)
            if there < most and first.name in self._names() and not forced:
                more = self.pool.start(work.stages)
                if more is None:
                    return
                self.running.append(more)

    def _shared_pending(self) -> bool:
        """Whether something is left that several processes work on: it may have parts for us."""
        return any(s.kind in SHARED for s in self.pending)

    def _names(self) -> set[str]:
        return {s.name for s in self.pending}

    def _collect(self) -> None:
        """Settle what has ended."""
        for work in list(self.running):
            ended = work.poll()
            if ended is None:
                continue
            self.running.remove(work)
            for result in ended:
                if result.ending == "busy":
                    self._wait_for(result)
                elif result.stage.name in self._names():
                    self._settle(result)

    def _settle(self, result: Result) -> None:
        self.results[result.stage.name] = result
        self.pending.remove(result.stage)
        if self.pool.width > 1:
            self.context.report.at(len(self.results))
        if self.on_result is not None:
            self.on_result(result)

    def _wait_for(self, result: Result) -> None:
        if result.stage.name not in self.told:
            self.told.add(result.stage.name)
            self.context.report.note(f"waiting: {result.cause}")

    def _ready(self, stage: Stage) -> bool:
        """Whether the inputs of `stage` are there; settles it as blocked if they never will be."""
        place = folder(self.context.workspace, stage)
        if stage.name not in self.context.force:
            if is_done(place):
                return True  # whoever gets it will say so
            if stage.kind == "cache" and self._freed_meanwhile(stage):
                self._settle(Result(stage, "skipped", place.path))
                return False
            if self.pool.width > 1 and stage.kind not in SHARED:
                here = state(place)
                if here.status is Status.RUNNING:  # whoever gets it would only wait
                    said = f"{stage.name} is {here.host} pid {here.pid}'s"
                    self._wait_for(Result(stage, "busy", place.path, said))
                    return False
        for dep in stage.deps.values():
            if dep.name in self._names():
                return False
            ended = self.results.get(dep.name)
            status = state(folder(self.context.workspace, dep)).status
            if serves(status, dep, stage):
                continue
            if status is Status.RUNNING:
                return False
            why = ended.ending if ended is not None else f"is {status}"
            self._settle(Result(stage, "blocked", place.path, f"needs {dep.name}, which {why}"))
            return False
        return True

    def _freed_meanwhile(self, stage: Stage) -> bool:
        """Whether another run has done all that reads these activations, and freed them."""
        workspace = self.context.workspace
        if state(folder(workspace, stage)).status is not Status.EVICTED:
            return False
        readers = [
            s
            for s in self.stages
            if s.kind == "train" and any(d.name == stage.name for d in s.deps.values())
        ]
        return bool(readers) and all(
            s.name not in self.context.force and is_done(folder(workspace, s)) for s in readers
        )
