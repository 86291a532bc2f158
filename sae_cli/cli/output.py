"""What `--json` prints: one versioned model per verb."""

from __future__ import annotations

from typing import Literal

from sae_cli.plan.reason import Row
from sae_cli.report.results import SaeRow
from sae_cli.run.base import Result
from sae_cli.spec.base import Frozen
from sae_cli.store.layout import StageDir


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


class SweepPlan(Frozen):
    """The stages of one sweep."""

    sweep: str
    unpinned: tuple[str, ...] = ()
    """Hub names whose commit is not known yet: the keys are provisional."""
    stages: tuple[StageLine, ...]


class PlanOutput(Frozen):
    """`saectl plan --json`, `saectl status --json`, `--dry-run --json`."""

    version: Literal[1] = 1
    sweeps: tuple[SweepPlan, ...]


class SweepRun(Frozen):
    """What came of one sweep."""

    sweep: str
    stages: tuple[StageLine, ...]
    waiting: int
    """Stages that were left, because what they need is not there."""
    results: tuple[SaeRow, ...]
    release: str | None


class RunOutput(Frozen):
    """`saectl run --json` and the four stages."""

    version: Literal[1] = 1
    sweeps: tuple[SweepRun, ...]


def plan_line(row: Row, path: StageDir) -> StageLine:
    """A row of a plan, with the stage's folder."""
    return StageLine(
        kind=row.stage.kind,
        slug=row.stage.slug,
        key=row.stage.key,
        path=str(path),
        action=row.action,
        reason=row.reason,
        status=str(row.state.status),
        bytes=row.bytes,
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
