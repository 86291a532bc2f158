"""Work that another process does: the words it is started with, and what became of it.

No code is shipped: every executor starts `saectl run` on the sweep as the workspace has recorded
it, narrowed to some stages. Truth stays on disk, where whoever started it then looks.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sae_cli.errors import FAILED, USAGE, StoreError
from sae_cli.plan.graph import Stage
from sae_cli.plan.place import folder
from sae_cli.run.base import Result
from sae_cli.run.context import Context
from sae_cli.store.atomic import read_json
from sae_cli.store.layout import StageDir
from sae_cli.store.records.ledger import is_done
from sae_cli.store.records.status import Status, state

PROGRAM = (sys.executable, "-m", "sae_cli", "run")
TRIES = 3
"""How often a job is begun whose process leaves no word."""


def words(stages: Sequence[Stage], context: Context) -> list[str]:
    """The words behind the verb that do exactly `stages`, which are forced all or none."""
    return [
        *sweep_words(context),
        *(word for stage in stages for word in ("--only", stage.key)),
        *(["--force"] if _anew(stages[0], context) else []),
        *(["--quiet"] if context.quiet else []),
    ]


def sweep_words(context: Context) -> list[str]:
    """The words that name the sweep and the workspace, wherever they are said."""
    assert context.sweep, "the sweep is recorded before its stages run"
    root = str(context.workspace.root.resolve())
    return [*context.sweep, "--store", root, "--keep-going", "--yes", "--worker"]


def unforced(stages: Sequence[Stage], context: Context) -> list[tuple[Stage, ...]]:
    """`stages` in parts that are done anew all or none."""
    anew = {s.name for s in stages if _anew(s, context)}
    forced = tuple(s for s in stages if s.name in anew)
    rest = tuple(s for s in stages if s.name not in anew)
    return [part for part in (forced, rest) if part]


def _anew(stage: Stage, context: Context) -> bool:
    """Whether a stage is to be done again although it was done: it is forced, or was freed."""
    status = state(folder(context.workspace, stage)).status
    return stage.name in context.force or status is Status.EVICTED


def outcome(stage: Stage, place: StageDir, seconds: float, since: float = 0.0) -> Result:
    """How a stage stands now that a process that was to do it has ended, after `seconds`.

    A failure that was recorded before `since` (seconds since 1970) is not its. One that left no
    record has no cause.
    """
    status = state(place).status
    if is_done(place) or status is Status.EVICTED:  # done, and freed by another run already
        return Result(stage, "done", place.path, seconds=seconds)
    if status is Status.RUNNING:
        return Result(stage, "busy", place.path, f"{stage.name} is another process's")
    try:
        record = read_json(place.failed) or {}
        cause = record.get("cause", "") if record.get("failed_at", 0.0) >= since else ""
    except StoreError as error:
        cause = str(error)
    return Result(stage, "failed", place.path, cause, seconds)


def settled(
    stages: Sequence[Stage],
    context: Context,
    began: float,
    code: int,
    log: Path,
    lost: Counter[str],
) -> list[Result]:
    """How the stages of a job ended that began at `began` (seconds since 1970).

    `code` is how their process ended (negative: by that signal), `log` what it wrote. One that was
    killed, with its machine perhaps, leaves neither result nor cause: then the stage is `busy`, to
    be tried again, until that happened `TRIES` times.
    """
    seconds = time.time() - began
    said = f"exit {code}" if code >= 0 else signal.Signals(-code).name
    context.force.difference_update(s.name for s in stages)
    results = [outcome(stage, folder(context.workspace, stage), seconds, began) for stage in stages]
    for result in results:
        if result.ending == "failed" and not result.cause:
            lost[result.stage.name] += 1
            result.cause = f"its process left no result ({said}): {_last_line(log)}"
            if code not in (FAILED, USAGE) and lost[result.stage.name] < TRIES:
                result.ending, result.cause = "busy", f"{result.stage.name}: {result.cause}"
    return results


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return f"and no log at {log}"
    said = [line.strip()[:300] for line in reversed(lines) if line.strip()]
    return next((line for line in said if line.startswith("error:")), [*said, f"see {log}"][0])
