"""One job, run here and now: claim, check again, do, record. Every executor ends in this.

The heavy code of a stage is imported here, by name, when the stage starts; nowhere else.
"""

from __future__ import annotations

import importlib
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sae_cli.errors import Blocked, Interrupted, SaectlError
from sae_cli.plan.graph import Stage
from sae_cli.plan.jobs import Job
from sae_cli.plan.place import folder, record_of
from sae_cli.stages.task import Dep, Report, Task
from sae_cli.store.claim import Claim, claim
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.ledger import is_done, open_stage, record_done, record_failed

Ending = Literal["done", "skipped", "failed", "blocked", "busy"]


@dataclass
class Result:
    """How a stage ended in this run, and why."""

    stage: Stage
    ending: Ending
    path: Path
    cause: str = ""
    seconds: float = 0.0


@dataclass
class Context:
    """What a run brings to every job."""

    workspace: Workspace
    report: Report
    device: str
    stop: Callable[[], bool]
    force: set[str] = field(default_factory=set)
    """Names of stages to do again although they are done; each once."""
    verbose: bool = False


def run_job(job: Job, context: Context) -> list[Result]:
    """Do what is to do of `job`. Raises Interrupted when a stop was asked for; all is saved."""
    results: list[Result] = []
    with ExitStack() as claims:
        held: list[tuple[Stage, Claim]] = []
        for stage in job.stages:
            place = folder(context.workspace, stage)
            if stage.name not in context.force and is_done(place):
                results.append(Result(stage, "skipped", place.path))
                continue
            try:
                mine = claims.enter_context(claim(place))
            except Blocked as e:
                results.append(Result(stage, "busy", place.path, str(e)))
                continue
            if stage.name not in context.force and is_done(place):
                results.append(Result(stage, "skipped", place.path))
                continue
            if stage.name in context.force:
                _clear(place)
                context.force.discard(stage.name)
            open_stage(place, record_of(stage))
            held.append((stage, mine))
        if held:
            results += _do(held, context)
    return results


def _do(held: Sequence[tuple[Stage, Claim]], context: Context) -> list[Result]:
    kind = held[0][0].kind
    started = time.monotonic()
    finished: dict[str, Result] = {}

    def task(stage: Stage, mine: Claim) -> Task:
        place = mine.stage
        report = _Logged(context.report, place, [c for _, c in held])

        def finish(files: Sequence[str], summary: Mapping[str, Any]) -> None:
            seconds = time.monotonic() - started
            record_done(mine, [place.path / f for f in files], summary, seconds)
            mine.forget_progress()
            shutil.rmtree(place.work, ignore_errors=True)
            finished[stage.name] = Result(stage, "done", place.path, seconds=seconds)

        return Task(
            name=stage.name,
            key=stage.key,
            slug=stage.slug,
            work=stage.work,
            out=place.path,
            deps={role: _dep(d, context.workspace) for role, d in stage.deps.items()},
            report=report,
            device=context.device,
            stop=context.stop,
            finish=finish,
        )

    cause: str | None = None
    try:
        module = importlib.import_module(f"sae_cli.stages.{kind}")
        module.run([task(stage, mine) for stage, mine in held])
    except Interrupted:
        raise
    except Exception as e:  # noqa: BLE001  whatever ended a stage belongs in its record
        cause = _cause(e)
        text = traceback.format_exc()
        for _, mine in held:
            _append(mine.stage.log, text)
        if context.verbose:
            context.report.note(text)
    left = [(s, c) for s, c in held if s.name not in finished]
    if left and cause is None:
        cause = "the stage ended without a result"
    for stage, mine in left:
        assert cause is not None
        record_failed(mine, cause)
        finished[stage.name] = Result(
            stage, "failed", mine.stage.path, cause, time.monotonic() - started
        )
    return list(finished.values())


def _cause(error: Exception) -> str:
    if isinstance(error, SaectlError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _dep(stage: Stage, workspace: Workspace) -> Dep:
    return Dep(stage.work, folder(workspace, stage).path, stage.key, stage.slug)


def _clear(place: StageDir) -> None:
    """Empty a stage's folder, the record that it was done first."""
    place.done.unlink(missing_ok=True)
    for entry in place.path.iterdir():
        if entry in (place.claim, place.claim_lock):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _append(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as f:
        f.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text.rstrip()}\n")


class _Logged:
    """A stage's report: shown to the user, kept in log.txt, and told to `status`."""

    def __init__(self, shown: Report, place: StageDir, claims: Sequence[Claim]) -> None:
        self._shown, self._place, self._claims, self._total = shown, place, claims, 0

    def begin(self, label: str, total: int, done: int, unit: str) -> None:
        self._total = total
        _append(self._place.log, f"{label}: {done:,} of {total:,} {unit}")
        self._shown.begin(label, total, done, unit)

    def at(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        for mine in self._claims:
            mine.progress(done, self._total)
        self._shown.at(done, numbers)

    def note(self, text: str) -> None:
        _append(self._place.log, text)
        self._shown.note(text)
