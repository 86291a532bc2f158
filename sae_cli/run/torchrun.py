"""Trainings that are for several processes, handed to a torchrun of their own on this machine.

It runs the same command on the sweep as it is recorded in the workspace, narrowed to these stages;
truth stays on disk, where this process then looks what became of them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from sae_cli.errors import Interrupted, StoreError
from sae_cli.plan.graph import Stage
from sae_cli.plan.place import folder
from sae_cli.run.base import Result
from sae_cli.run.context import Context
from sae_cli.run.world import processes
from sae_cli.store.atomic import read_json
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import read_holder
from sae_cli.store.records.ledger import is_done
from sae_cli.store.records.status import Status, state

POLL_S = 0.2


def launch(stages: Sequence[Stage], context: Context) -> list[Result]:
    """Train `stages`, which share their `parallel`, and return how each ended.

    Raises Interrupted when a stop was asked for, once the processes have saved and left.
    """
    forced = [stage for stage in stages if stage.name in context.force]
    rest = [stage for stage in stages if stage.name not in context.force]
    done = [stage for stage in rest if is_done(folder(context.workspace, stage))]
    if (forced and rest) or done:
        todo = [stage for stage in rest if stage not in done]
        found = [Result(s, "skipped", folder(context.workspace, s).path) for s in done]
        return found + [r for part in (forced, todo) if part for r in launch(part, context)]
    started, number = time.monotonic(), processes(stages[0])
    names = ", ".join(stage.name for stage in stages)
    context.report.note(f"torchrun starts {number} processes for {names}")
    threads = str(max(1, (os.cpu_count() or 1) // number))
    child = subprocess.Popen(
        command(stages, number, context),
        start_new_session=True,  # a Ctrl-C is passed on once, as a request to save
        stdout=subprocess.DEVNULL,
        env={"OMP_NUM_THREADS": threads, **os.environ},
    )
    asked = False
    while child.poll() is None:
        if context.stop() and not asked:
            _ask(child, folder(context.workspace, stages[0]))
            asked = True
        time.sleep(POLL_S)
    context.force.difference_update(stage.name for stage in stages)
    if context.stop():
        raise Interrupted(f"interrupted: {names}: its processes have saved and left")
    seconds = time.monotonic() - started
    return [_result(stage, folder(context.workspace, stage), seconds) for stage in stages]


def command(stages: Sequence[Stage], number: int, context: Context) -> list[str]:
    """The command line."""
    assert context.sweep, "the sweep is recorded before its stages run"
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(number), "-m", "sae_cli.cli.rank", "train", *context.sweep),
        *("--store", str(context.workspace.root), "--keep-going", "--yes"),
        *(word for stage in stages for word in ("--only", stage.key)),
        *(["--force"] if stages[0].name in context.force else []),
        *(["--quiet"] if context.quiet else []),
    ]


def _ask(child: subprocess.Popen[bytes], place: StageDir) -> None:
    """Ask rank 0, who holds the claims, to save and leave, and the others with it; before there is
    one, torchrun to end them."""
    holder = read_holder(place.claim)
    if holder is not None and holder.host == socket.gethostname():
        with suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGTERM)
    else:
        child.terminate()


def _result(stage: Stage, place: StageDir, seconds: float) -> Result:
    if is_done(place):
        return Result(stage, "done", place.path, seconds=seconds)
    if state(place).status is Status.RUNNING:
        return Result(stage, "busy", place.path, f"{stage.name} is another process's")
    try:
        cause = (read_json(place.failed) or {}).get("cause")
    except StoreError as error:
        cause = str(error)
    told = cause or f"its processes ended without a result: see {place.log}"
    return Result(stage, "failed", place.path, told, seconds)
