"""The pool that needs no other process: jobs in this one, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sae_cli.plan.graph import Stage
from sae_cli.plan.jobs import Job
from sae_cli.plan.memory import Limits, fitted
from sae_cli.run import drive
from sae_cli.run.base import Result, run_job
from sae_cli.run.context import Context
from sae_cli.run.torchrun import launch
from sae_cli.run.world import processes, world_size


def run(
    stages: Sequence[Stage],
    context: Context,
    *,
    keep_going: bool = False,
    on_result: Callable[[Result], None] | None = None,
) -> list[Result]:
    """`drive.run` in this process."""
    return drive.run(stages, context, Inline(context), keep_going=keep_going, on_result=on_result)


@dataclass
class Ended:
    """A job that ended when it was begun."""

    stages: tuple[Stage, ...]
    results: list[Result]

    def poll(self) -> list[Result]:
        """How each stage ended."""
        return self.results

    def ask(self) -> None:
        """It has left already."""


@dataclass
class Inline:
    """See `drive.Pool`."""

    context: Context
    width: int = 1

    def passes(self, stages: tuple[Stage, ...]) -> list[tuple[Stage, ...]]:
        """Trainings in as many passes as their memory asks for."""
        if len(stages) < 2 or stages[0].kind != "train":
            return [stages]
        passes = fitted(stages, _limits(self.context))
        if len(passes) > 1:
            self.context.report.note(
                f"{len(stages)} SAEs on {stages[0].deps['cache'].slug} train in {len(passes)} "
                "passes: together they need more memory than there is"
            )
        return passes

    def start(self, stages: tuple[Stage, ...]) -> Ended:
        """Do the job, here or in the processes that it asks for."""
        if processes(stages[0]) > 1 and world_size() is None:
            return Ended(stages, launch(stages, self.context))
        return Ended(stages, run_job(Job(stages), self.context))


def _limits(context: Context) -> Limits:
    from sae_cli.stages.grid_memory import free_memory  # torch comes with it

    device, host = free_memory(context.device)
    if context.memory is None:
        return Limits(device, host)
    return Limits(None, context.memory) if device is None else Limits(context.memory, host)
