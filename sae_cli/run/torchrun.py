"""Trainings that are for several processes, handed to a torchrun of their own on this machine.

It runs the same command on the sweep as it is recorded in the workspace, narrowed to these stages;
truth stays on disk, where this process then looks what became of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sae_cli.errors import Interrupted
from sae_cli.plan.graph import Stage
from sae_cli.plan.place import folder
from sae_cli.run.base import Result
from sae_cli.run.command import outcome, words
from sae_cli.run.context import Context
from sae_cli.run.world import processes
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import read_holder
from sae_cli.store.records.ledger import is_done

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
    places = [folder(context.workspace, stage) for stage in stages]
    asked = False
    try:
        while child.poll() is None:
            if context.stop() and not asked:
                _ask(child, places)
                asked = True
            time.sleep(POLL_S)
    except BaseException:
        child.terminate()
        raise
    context.force.difference_update(stage.name for stage in stages)
    if context.stop():
        raise Interrupted(f"interrupted: {names}: its processes have saved and left")
    seconds = time.monotonic() - started
    results = [outcome(stage, at, seconds) for stage, at in zip(stages, places, strict=True)]
    for result in results:
        if result.ending == "failed" and not result.cause:
            log = result.path / "log.txt"
            result.cause = f"its processes ended without a result: see {log}"
    return results


def command(stages: Sequence[Stage], number: int, context: Context) -> list[str]:
    """The command line."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(number), "-m", "sae_cli.cli.rank", "train"),
        *words(stages, context),
    ]


def _ask(child: subprocess.Popen[bytes], places: Sequence[StageDir]) -> None:
    """Ask rank 0, who holds the claims, to save and leave, and the others with it; where it holds
    none, torchrun to end them."""
    for place in places:
        holder = read_holder(place.claim)
        if holder is not None and _parent(holder.pid) == child.pid:
            with suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGTERM)
            return
    child.terminate()


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None
