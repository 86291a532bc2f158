"""Where a stage of a graph lives on disk, and whether another may read it there."""

from __future__ import annotations

from typing import Any

from sae_cli.plan.graph import Stage
from sae_cli.spec.base import identity
from sae_cli.spec.work import VERSIONS, TrainWork
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records.status import Status


def folder(workspace: Workspace, stage: Stage) -> StageDir:
    """A stage's folder: the one that has its key already, else the one it will get."""
    wanted = workspace.stage_dir(stage.kind, stage.slug, stage.key)
    if wanted.path.exists():
        return wanted
    renamed = [name for name in _siblings(wanted) if name.endswith(f"-{stage.key}")]
    return StageDir(wanted.path.with_name(min(renamed))) if renamed else wanted


def elders(workspace: Workspace, stage: Stage) -> list[StageDir]:
    """Other stages of this kind and slug that were begun, the latest last."""
    wanted = workspace.stage_dir(stage.kind, stage.slug, stage.key)
    names = (name for name in _siblings(wanted) if name.startswith(f"{stage.slug}-"))
    same = (StageDir(wanted.path.with_name(name)) for name in names)
    begun = [s for s in same if s.slug == stage.slug and s.key != stage.key and s.spec.is_file()]
    return sorted(begun, key=lambda s: s.spec.stat().st_mtime)


def _siblings(place: StageDir) -> list[str]:
    """Names beside a stage's folder; it is asked for hundreds of stages, most on an empty disk."""
    try:
        return [path.name for path in place.path.parent.iterdir()]
    except FileNotFoundError:
        return []


def record_of(stage: Stage) -> dict[str, Any]:
    """What the key is made from, as spec.json holds it."""
    return {
        "kind": stage.kind,
        "version": VERSIONS[stage.kind],
        "identity": identity(stage.work),
        "deps": {role: d.key for role, d in stage.deps.items()},
    }


def serves(status: Status, dep: Stage, reader: Stage) -> bool:
    """Whether `dep`, standing at `status`, is enough for `reader`.

    Only training reads activations themselves; evaluation and release are content with the
    statistics and records that stay behind when activations are freed.
    """
    if status is Status.EVICTED:
        return dep.kind == "cache" and not isinstance(reader.work, TrainWork)
    return status is Status.DONE
