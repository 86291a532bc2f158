"""The processes that torchrun started, as seen without torch: how many, and who leads.

`torchrun --nproc-per-node N -m sae_cli train SPEC` starts N of them. Without torchrun there is one,
and a training that asks for more is handed to a torchrun of its own (`torchrun.launch`).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from sae_cli.errors import UsageError
from sae_cli.plan.graph import Stage
from sae_cli.run.signals import stop_requests
from sae_cli.spec.work import TrainWork

_TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process."""


def world_size() -> int | None:
    """How many processes torchrun started; None when it did not start this one."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _TOLD) else None


def together(command: Callable[[], int]) -> int:
    """The exit code of `command`, which runs in rank 0; other ranks join in its trainings."""
    if world_size() in (None, 1):
        return command()
    crew = importlib.import_module("sae_cli.stages.crew")  # torch comes with it
    if crew.join():
        code = command()
        crew.dismiss(code)
        return code
    with stop_requests(lambda text: None) as stop:
        train = importlib.import_module("sae_cli.stages.train")
        return int(crew.follow(train.run, stop))


def leave(code: int) -> NoReturn:
    """End this process with `code`. One of several ends at once: threads of torch.distributed that
    are still there when Python takes itself apart abort it now and then (one in 25, seen with
    torch 2.13), and a torchrun takes that for a failure.
    """
    if world_size() in (None, 1):
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def processes(stage: Stage) -> int:
    """How many processes a stage is for."""
    return stage.work.train.parallel.processes if isinstance(stage.work, TrainWork) else 1


def refuse_unfit(stages: Sequence[Stage]) -> None:
    """Raises UsageError where torchrun started another number of processes than a training of
    `stages` is for."""
    there = world_size()
    for stage in stages:
        wanted = processes(stage)
        if there is not None and stage.kind == "train" and wanted != there:
            raise UsageError(
                f"{stage.name} is for {wanted} processes (train.parallel), and torchrun started "
                f"{there}",
                hint="start as many, or leave torchrun out: saectl starts it where it is needed",
            )
