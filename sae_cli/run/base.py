"""One job, run here and now: claim, check again, do, record. Every executor ends in this.

The heavy code of a stage is imported here, by name, when the stage starts; nowhere else.
"""

from __future__ import annotations

import importlib
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sae_cli.errors import Blocked, Interrupted, SaectlError, StoreError
from sae_cli.plan.graph import Stage
from sae_cli.plan.jobs import Job
from sae_cli.plan.place import folder, record_of
from sae_cli.stages.task import Dep, Report, Task
from sae_cli.store.atomic import sync_folder
from sae_cli.store.claim import Claim, claim
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.ledger import (
    finish_eviction,
    is_done,
    open_stage,
    record_done,
    record_failed,
    verify_done,
)

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
    verified: set[str] = field(default_factory=set)
    """Names of stages whose results were hashed in this run, and are what their record says."""


def run_job(job: Job, context: Context) -> list[Result]:
    """Do what is to do of `job`. Raises Interrupted when a stop was asked for; all is saved.

    When a job of several stages fails, each unfinished one is tried alone, so that a stage fails
    for its own reasons only.
    """
    results: list[Result] = []
    with ExitStack() as claims:
        held: list[_Held] = []
        for stage in job.stages:
            place = folder(context.workspace, stage)
            forced = stage.name in context.force
            if not forced and is_done(place):
                results.append(Result(stage, "skipped", place.path))
                continue
            try:
                mine = claims.enter_context(claim(place))
            except Blocked as e:
                results.append(Result(stage, "busy", place.path, str(e)))
                continue
            if not forced and is_done(place):
                results.append(Result(stage, "skipped", place.path))
                continue
            if forced:
                _clear(place)
                context.force.discard(stage.name)
            finish_eviction(place)
            open_stage(place, record_of(stage))
            held.append(_Held(stage, mine))
        left = _attempt(held, context) if held else []
        for each in left if len(held) > 1 else []:
            context.report.note(f"{each.stage.name}: trying it alone")
            _attempt([each], context)
        for each in held:
            if each.result is None:
                with suppress(StoreError, Blocked):  # the disk that failed it may refuse this too
                    record_failed(each.claim, each.cause)
                each.result = Result(
                    each.stage, "failed", each.claim.stage.path, each.cause, each.seconds
                )
            results.append(each.result)
    return results


def tidy(place: StageDir) -> None:
    """Remove what a process left in a done stage when it was killed right after finishing it."""
    if not (place.claim.exists() or place.work.exists()) or not is_done(place):
        return
    try:
        with claim(place):
            shutil.rmtree(place.work, ignore_errors=True)
    except Blocked:
        return  # someone is just leaving


@dataclass
class _Held:
    """A stage that this process has claimed, and what came of it."""

    stage: Stage
    claim: Claim
    result: Result | None = None
    cause: str = ""
    seconds: float = 0.0


def _attempt(held: Sequence[_Held], context: Context) -> list[_Held]:
    """Run claimed stages as one job; returns those that did not finish, with the cause."""
    started = time.monotonic()
    cause = "the stage ended without a result"
    try:
        _verify_inputs(held, context)
        module = importlib.import_module(f"sae_cli.stages.{held[0].stage.kind}")
        module.run([_task(each, held, context, started) for each in held])
    except Interrupted:
        raise
    except Exception as e:  # noqa: BLE001  whatever ended a stage belongs in its record
        cause = str(e) if isinstance(e, SaectlError) else f"{type(e).__name__}: {e}"
        text = traceback.format_exc()
        for each in held:
            _append(each.claim.stage.log, text)
        if context.verbose:
            context.report.note(text)
    left = [each for each in held if each.result is None]
    for each in left:
        each.cause, each.seconds = cause, time.monotonic() - started
    return left


def _verify_inputs(held: Sequence[_Held], context: Context) -> None:
    """Hash what the stages are about to read, once a run. Raises StoreError naming what differs."""
    for dep in {d.name: d for each in held for d in each.stage.deps.values()}.values():
        place = folder(context.workspace, dep)
        if dep.name not in context.verified and not place.evicted.exists():
            verify_done(place)
            context.verified.add(dep.name)


def _task(each: _Held, held: Sequence[_Held], context: Context, started: float) -> Task:
    stage, place = each.stage, each.claim.stage

    def finish(files: Sequence[str], summary: Mapping[str, Any]) -> None:
        seconds = time.monotonic() - started
        record_done(each.claim, [place.path / f for f in files], summary, seconds)
        each.claim.forget_progress()
        shutil.rmtree(place.work, ignore_errors=True)
        each.result = Result(stage, "done", place.path, seconds=seconds)

    return Task(
        name=stage.name,
        key=stage.key,
        slug=stage.slug,
        work=stage.work,
        out=place.path,
        deps={role: _dep(d, context.workspace) for role, d in stage.deps.items()},
        report=_Logged(context.report, [h.claim for h in held]),
        device=context.device,
        stop=context.stop,
        finish=finish,
    )


def _dep(stage: Stage, workspace: Workspace) -> Dep:
    return Dep(stage.work, folder(workspace, stage).path, stage.key, stage.slug)


def _clear(place: StageDir) -> None:
    """Empty a stage's folder: first that it is done, then the log of its chunks, then the rest."""
    for index in (place.done, place.commits):
        index.unlink(missing_ok=True)
        sync_folder(place.path)
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
    """A job's report: shown to the user, kept in each stage's log.txt, and told to `status`."""

    def __init__(self, shown: Report, claims: Sequence[Claim]) -> None:
        self._shown, self._claims, self._total = shown, claims, 0

    def begin(self, label: str, total: int, done: int, unit: str) -> None:
        self._total = total
        self._log(f"{label}: {done:,} of {total:,} {unit}")
        self._shown.begin(label, total, done, unit)

    def at(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        for mine in self._claims:
            mine.progress(done, self._total)
        self._shown.at(done, numbers)

    def note(self, text: str) -> None:
        self._log(text)
        self._shown.note(text)

    def _log(self, text: str) -> None:
        for mine in self._claims:
            _append(mine.stage.log, text)
