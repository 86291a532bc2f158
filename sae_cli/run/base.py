"""One job, run here and now: claim, check again, do, record. Every executor ends in this.

The heavy code of a stage is imported here, by name, when the stage starts; nowhere else.
"""

from __future__ import annotations

import importlib
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sae_cli.errors import (
    Blocked,
    DataError,
    Interrupted,
    ModelError,
    SaectlError,
    StoreError,
)
from sae_cli.plan.graph import Stage
from sae_cli.plan.jobs import Job
from sae_cli.plan.place import folder
from sae_cli.run.context import Context
from sae_cli.run.opening import begin, enter, verify_inputs
from sae_cli.run.world import processes
from sae_cli.stages.task import SHARED, Dep, Report, Task
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records.claim import Claim, claim
from sae_cli.store.records.ledger import is_done, record_done, record_failed

Ending = Literal["done", "skipped", "failed", "blocked", "busy"]


@dataclass
class Result:
    """How a stage ended in this run, and why."""

    stage: Stage
    ending: Ending
    path: Path
    cause: str = ""
    seconds: float = 0.0


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
            opened = _open(stage, place, context, claims)
            if isinstance(opened, Result):
                results.append(opened)
            else:
                held.append(opened)
        refusal = context.room([each.stage for each in held]) if held else None
        for each in held:
            each.cause = refusal or ""
        left = _attempt(held, context) if refusal is None and held else []
        shared = len(held) > 1 and processes(held[0].stage) == 1  # those that shared are gone
        for each in left if shared else []:
            context.report.note(f"{each.stage.name}: trying it alone")
            _attempt([each], context)
        for each in held:
            if each.result is None:
                each.result = _failed(each)
            results.append(each.result)
    return results


def _open(stage: Stage, place: StageDir, context: Context, claims: ExitStack) -> _Held | Result:
    """Claim a stage and begin its records, or say why there is nothing to do, or it can't be done.

    The claim is held until `claims` is closed; that of a shared stage is let go at once.
    """
    forced, mine = stage.name in context.force, _Held(stage, place)
    if not forced and is_done(place):
        return Result(stage, "skipped", place.path)
    try:
        with ExitStack() as opening:
            scope = opening if stage.kind in SHARED else claims
            held, whole = enter(scope, stage, place, forced=forced)
            if not forced and is_done(place):
                return Result(stage, "skipped", place.path)
            try:
                begin(stage, place, context, forced=forced, whole=whole)
            except (StoreError, ModelError, DataError) as e:
                if whole and not place.done.exists():
                    record_failed(held, str(e))
                return Result(stage, "failed", place.path, str(e))
            if stage.kind not in SHARED:
                mine.claims.append(held)
    except Blocked as e:
        return Result(stage, "busy", place.path, str(e))
    return mine


def tidy(place: StageDir) -> None:
    """Remove what a process left in a done stage when it was killed right after finishing it."""
    if not (place.claims or place.work.exists()) or not is_done(place):
        return
    try:
        with claim(place):
            shutil.rmtree(place.work, ignore_errors=True)
    except Blocked:
        return  # someone is just leaving


@dataclass
class _Held:
    """A stage that this process works on, and what came of it."""

    stage: Stage
    place: StageDir
    claims: list[Claim] = field(default_factory=list)
    """Of the whole stage; of a shared one, of the parts under way."""
    result: Result | None = None
    cause: str = ""
    seconds: float = 0.0
    tells: bool = False
    """Whether it tells its own progress, so that the job's is not its."""


def _attempt(held: Sequence[_Held], context: Context) -> list[_Held]:
    """Run claimed stages as one job; returns those that did not finish, with the cause."""
    started = time.monotonic()
    cause = "the stage ended without a result"
    try:
        sound = [each for each in held if _verified(each, context)]
        if sound:
            module = importlib.import_module(f"sae_cli.stages.{held[0].stage.kind}")
            module.run([_task(each, sound, context, started) for each in sound])
    except Interrupted:
        raise
    except Exception as e:  # noqa: BLE001  whatever ended a stage belongs in its record
        cause = str(e) if isinstance(e, SaectlError) else f"{type(e).__name__}: {e}"
        text = traceback.format_exc()
        for each in held:
            _append(each.place.log, text)
        if context.verbose:
            context.report.note(text)
    left = [each for each in held if each.result is None]
    for each in left:
        each.cause, each.seconds = cause, time.monotonic() - started
    return left


def _verified(each: _Held, context: Context) -> bool:
    """Whether a stage's inputs are what their records say. If not, it fails, and it alone."""
    try:
        verify_inputs([each.stage], context)
    except StoreError as error:
        each.cause = str(error)
        each.result = _failed(each)
        _append(each.place.log, each.cause)
        return False
    return True


def _failed(each: _Held) -> Result:
    """Record that a stage failed, and why."""
    with suppress(StoreError, Blocked):  # the disk that failed it may refuse this too
        if each.claims:
            record_failed(each.claims[0], each.cause)
        else:
            with claim(each.place) as whole:  # while others work on the rest, it has not failed
                record_failed(whole, each.cause)
    return Result(each.stage, "failed", each.place.path, each.cause, each.seconds)


def _task(each: _Held, held: Sequence[_Held], context: Context, started: float) -> Task:
    stage, place = each.stage, each.place

    def finish(files: Sequence[str], summary: Mapping[str, Any]) -> None:
        seconds = time.monotonic() - started
        (whole,) = each.claims
        record_done(whole, [place.path / f for f in files], summary, seconds)
        whole.forget_progress()
        shutil.rmtree(place.work, ignore_errors=True)
        each.result = Result(stage, "done", place.path, seconds=seconds)

    def fail(error: SaectlError) -> None:
        each.cause, each.seconds = str(error), time.monotonic() - started
        text = "".join(traceback.format_exception(error))
        _append(place.log, text)
        if context.verbose:
            context.report.note(text)
        each.result = _failed(each)
        context.report.note(f"failed: {each.cause}")

    def progress(done: int, total: int) -> None:
        each.tells = True
        for mine in each.claims:
            mine.progress(done, total)

    @contextmanager
    def hold(part: str | None) -> Iterator[None]:
        assert stage.kind in SHARED
        with claim(place, part) as mine:
            if is_done(place) or place.evicted.exists():  # it was begun anew without that
                raise Blocked(f"{stage.name} was just finished by another process")
            each.claims.append(mine)
            try:
                yield
            finally:
                each.claims.remove(mine)

    def wait(why: str) -> None:
        each.result = Result(stage, "busy", place.path, why)

    return Task(
        name=stage.name,
        key=stage.key,
        slug=stage.slug,
        work=stage.work,
        out=place.path,
        deps={role: _dep(d, context.workspace) for role, d in stage.deps.items()},
        report=_Logged(context.report, held),
        device=context.device,
        stop=context.stop,
        finish=finish,
        part=hold,
        whole=lambda: hold(None),
        wait=wait,
        fail=fail,
        progress=progress,
    )


def _dep(stage: Stage, workspace: Workspace) -> Dep:
    return Dep(stage.work, folder(workspace, stage).path, stage.key, stage.slug)


def _append(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as f:
        f.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text.rstrip()}\n")


class _Logged:
    """A job's report: shown to the user, kept in each stage's log.txt, and told to `status`."""

    def __init__(self, shown: Report, held: Sequence[_Held]) -> None:
        self._shown, self._held, self._total = shown, held, 0

    def begin(self, label: str, total: int, done: int, unit: str) -> None:
        self._total = total
        self._log(f"{label}: {done:,} of {total:,} {unit}")
        self._shown.begin(label, total, done, unit)

    def at(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        for each in self._held:
            for mine in each.claims if not (each.tells or each.result) else []:
                mine.progress(done, self._total)
        self._shown.at(done, numbers)

    def note(self, text: str) -> None:
        self._log(text)
        self._shown.note(text)

    def _log(self, text: str) -> None:
        for each in self._held:
            _append(each.place.log, text)
