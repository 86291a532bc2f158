"""What `--json` prints: one versioned model per verb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sae_cli.plan.reason import Row
from sae_cli.report.results import SaeRow
from sae_cli.spec.base import Frozen

VERSION = 1


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


class PlanOutput(Frozen):
    """`saectl plan --json`, `saectl status --json`."""

    version: Literal[1] = 1
    sweep: str
    unpinned: tuple[str, ...] = ()
    stages: tuple[StageLine, ...]


class RunOutput(Frozen):
    """`saectl run --json` and the four stages."""

    version: Literal[1] = 1
    sweep: str
    stages: tuple[StageLine, ...]
    results: tuple[SaeRow, ...]
    release: str | None


def plan_lines(rows: Sequence[Row], paths: Sequence[str]) -> tuple[StageLine, ...]:
    """The rows of a plan with the folder of each stage."""
    return tuple(
        StageLine(
            kind=r.stage.kind,
            slug=r.stage.slug,
            key=r.stage.key,
            path=p,
            action=r.action,
            reason=r.reason,
            status=str(r.state.status),
            bytes=r.bytes,
        )
        for r, p in zip(rows, paths, strict=True)
    )
