"""What `--json` prints: one versioned model per verb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sae_cli.plan.graph import Stage
from sae_cli.plan.predict import Totals
from sae_cli.plan.reason import Row
from sae_cli.plan.room import Room
from sae_cli.plan.waves import Wave
from sae_cli.report.elbow import Elbow
from sae_cli.report.results import SaeRow
from sae_cli.run.base import Result
from sae_cli.spec.base import Frozen
from sae_cli.spec.work import CacheWork
from sae_cli.store.layout import StageDir
from sae_cli.store.records.status import committed


class StageLine(Frozen):
    """A stage and what would happen, or happened, to it."""

    kind: str
    slug: str
    key: str
    path: str
    action: str
    """run, skip, wait, blocked in a plan; done, skipped, failed, blocked after a run."""
    reason: str
    status: str | None = None
    bytes: int | None = None
    seconds: float | None = None
    dtype: str | None = None
    """Number format of activations."""
    fvu_loss: float | None = None
    """Share of the variance that int8 lost, where it was measured."""
    workers: int | None = None
    """Living processes that work on it."""
    rows: int | None = None
    """Committed rows of activations that are being captured."""
    planned_rows: int | None = None
    predicted_seconds: float | None = None
    """Of the job that the stage is part of, by the calibration of a device."""
    seconds_left: float | None = None
    """Of a running stage, at the rate of its process's own steps."""


class WaveLine(Frozen):
    """Activations that are on disk together."""

    arrays: tuple[str, ...]
    """Names of their stages."""
    bytes: int
    begun: bool
    """They are on disk already, in part at least."""


class SweepPlan(Frozen):
    """The stages of one sweep."""

    sweep: str
    unpinned: tuple[str, ...] = ()
    """Hub names whose commit is not known yet: the keys are provisional."""
    stages: tuple[StageLine, ...]
    room: Room | None = None
    """Of a plan: what it writes, and what there is for it."""
    totals: Totals | None = None
    """Of a plan: what the stages that run cost together, and job by job."""
    waves: tuple[WaveLine, ...] = ()
    """Of a plan within a budget of disk: what is captured, trained and freed together."""


class PlanOutput(Frozen):
    """`saectl plan --json`, `saectl status --json`, `--dry-run --json`."""

    version: Literal[1] = 1
    sweeps: tuple[SweepPlan, ...]


class PushLine(Frozen):
    """What a push to the hub did."""

    repo: str
    url: str
    commit: str
    sent: tuple[str, ...]
    """Files that were added or changed."""
    kept: int
    """Files that were there already."""
    removed: tuple[str, ...]
    """Files of an earlier release that this one lacks."""


class FileLine(Frozen):
    """A file of a release."""

    name: str
    bytes: int
    sha256: str


class PushPlan(Frozen):
    """`saectl release --push ORG/NAME --dry-run --json`, where the release is made."""

    version: Literal[1] = 1
    repo: str
    private: bool
    bytes: int
    files: tuple[FileLine, ...]


class SweepRun(Frozen):
    """What came of one sweep."""

    sweep: str
    stages: tuple[StageLine, ...]
    waiting: int
    """Stages that were left, because what they need is not there."""
    results: tuple[SaeRow, ...]
    elbows: tuple[Elbow, ...] = ()
    """Where SAEs differ in nothing but three widths or more."""
    release: str | None
    pushed: PushLine | None = None
    """With --push."""


class RunOutput(Frozen):
    """`saectl run --json` and the four stages."""

    version: Literal[1] = 1
    sweeps: tuple[SweepRun, ...]


class FreeLine(Frozen):
    """Activations that may be freed, or were."""

    slug: str
    key: str
    path: str
    url: str | None
    """The bucket that holds them."""
    bytes: int
    named: bool
    """A sweep of the workspace names them."""


class GcOutput(Frozen):
    """`saectl gc --json`."""

    version: Literal[1] = 1
    freed: bool
    """Whether they were deleted, or only would be."""
    bytes: int
    stages: tuple[FreeLine, ...]


class ValidateOutput(Frozen):
    """`saectl validate --json`."""

    version: Literal[1] = 1
    ok: bool
    sweep: str | None = None
    models: tuple[str, ...] = ()
    saes: int | None = None
    error: str | None = None
    """Every problem, each with its line and column."""


class DamageLine(Frozen):
    """Something that is not what was committed or recorded."""

    what: str
    array: str | None = None
    shard: int | None = None
    first_row: int | None = None
    last_row: int | None = None
    file: str | None = None


class VerifyLine(Frozen):
    """What was found of one stage."""

    kind: str
    slug: str
    key: str
    path: str
    verdict: str
    """ok, damaged, passed over, repaired, changed (made anew, with other bits) or not repaired."""
    why: str | None = None
    arrays: int
    shards: int
    files: int
    bytes: int
    damages: tuple[DamageLine, ...]


class VerifyOutput(Frozen):
    """`saectl verify --json`."""

    version: Literal[1] = 1
    ok: bool
    bytes: int
    seconds: float
    stages: tuple[VerifyLine, ...]


def plan_line(row: Row, path: StageDir, predicted: float | None = None) -> StageLine:
    """A row of a plan, with the stage's folder; `predicted` seconds, where they are known."""
    work, done = row.stage.work, row.state.done
    cache = isinstance(work, CacheWork)
    rows = committed(path) if cache and done is None else None
    return StageLine(
        dtype=work.cache.dtype if isinstance(work, CacheWork) else None,
        fvu_loss=None if done is None else done.summary.get("fvu_loss"),
        workers=row.state.workers or None,
        rows=None if rows is None else rows[0],
        planned_rows=None if rows is None else rows[1],
        kind=row.stage.kind,
        slug=row.stage.slug,
        key=row.stage.key,
        path=str(path),
        action=row.action,
        reason=row.reason,
        status=str(row.state.status),
        bytes=row.bytes,
        seconds=None if done is None else round(done.seconds, 3),
        predicted_seconds=None if predicted is None else round(predicted, 3),
        seconds_left=None if row.state.left is None else round(row.state.left, 1),
    )


def wave_lines(ahead: Sequence[tuple[Wave | None, Sequence[Stage]]]) -> tuple[WaveLine, ...]:
    """The waves of a plan; none where all is done at once."""
    return tuple(
        WaveLine(arrays=tuple(s.name for s in w.stages), bytes=w.bytes, begun=w.begun)
        for w, _ in ahead
        if w is not None
    )


def run_line(result: Result) -> StageLine:
    """How a stage ended."""
    return StageLine(
        kind=result.stage.kind,
        slug=result.stage.slug,
        key=result.stage.key,
        path=str(result.path),
        action=result.ending,
        reason=result.cause,
        seconds=round(result.seconds, 3),
    )
