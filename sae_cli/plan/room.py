"""Whether what a sweep is about to write fits: on the disk of the workspace, and in its quota.

What goes into a bucket does not count. Sizes are those of finished results; what is there of a
stage already counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.jobs import disk_bytes
from sae_cli.plan.place import folder
from sae_cli.plan.reason import Row
from sae_cli.spec.base import Frozen
from sae_cli.spec.work import CacheWork
from sae_cli.store.layout import Workspace, size_of
from sae_cli.store.records.evict import half_evicted
from sae_cli.store.records.space import free_bytes, told, used_bytes
from sae_cli.store.records.status import Status, state

_WRITERS = ("tokens", "cache", "train")
"""Kinds that take room worth asking for."""


class Room(Frozen):
    """What a plan writes, and what there is for it. Bytes."""

    local: int
    """Still to be written to the disk of the workspace; within a budget, what is there at once."""
    bucket: int
    """Still to be written to buckets."""
    unknown: int
    """Stages whose size is not known yet."""
    free: int
    """Free on that disk."""
    quota: int | None
    """Of the sweep."""
    used: int | None
    """Taken by the sweep's stages; only looked at when there is a quota."""

    @property
    def warnings(self) -> list[str]:
        """What does not fit, one line each."""
        out = []
        if self.local > self.free:
            out.append(
                f"does not fit: {told(self.local)} to write, {told(self.free)} free; "
                f"{told(self.local - self.free)} are missing"
            )
        if self.quota is not None and self.used is not None and self.used + self.local > self.quota:
            out.append(
                f"does not fit the quota of {told(self.quota)}: {told(self.used)} used and "
                f"{told(self.local)} to write"
            )
        return out


def room(graph: Graph, rows: Sequence[Row], workspace: Workspace) -> Room:
    """What the rows of a plan that run will write, and what there is for it."""
    todo = [row for row in rows if row.action == "run"]
    quota, budget = graph.sweep.spec.quota, graph.sweep.spec.storage.budget
    afar = {r.stage.name for r in todo if bucket(workspace, r.stage) is not None}
    here = [r for r in todo if r.stage.name not in afar]
    arrays, rest = (
        sum(
            _left(workspace, r.stage, r.bytes or 0) for r in here if (r.stage.kind == "cache") is it
        )
        for it in (True, False)
    )
    return Room(
        local=rest + (arrays if budget is None else min(arrays, budget)),
        bucket=sum(r.bytes or 0 for r in todo if r.stage.name in afar),
        unknown=sum(r.bytes is None for r in todo),
        free=free_bytes(workspace.root),
        quota=quota,
        used=None if quota is None else sum(_used(graph.stages, workspace).values()),
    )


def refusal(graph: Graph, workspace: Workspace, stages: Sequence[Stage]) -> str | None:
    """Why the quota of a sweep leaves no room for what `stages` write, or None if it does."""
    mine = [s for s in stages if s.kind in _WRITERS]
    crowded = _over_budget(graph, workspace, mine)
    if crowded is not None:
        return crowded
    quota = graph.sweep.spec.quota
    if quota is None or not mine:
        return None
    here = (s for s in mine if bucket(workspace, s) is None)
    need = sum(_left(workspace, s, disk_bytes(s) or 0) for s in here)
    used = _used(graph.stages, workspace)
    taken = sum(used.values())
    if taken + need <= quota:
        return None
    kinds = ", ".join(f"{kind} {told(n)}" for kind, n in used.items() if n)
    return (
        f"{told(need)} are to be written, but of the quota of {told(quota)} the stages of "
        f"{graph.sweep.spec.name} use {told(taken)}"
        + (f" ({kinds})" if kinds else "")
        + ": saectl gc frees activations that nothing needs any more; or raise `quota`"
    )


def _over_budget(graph: Graph, workspace: Workspace, mine: Sequence[Stage]) -> str | None:
    """Why what `mine` captures does not fit the sweep's budget, beside what is there already."""
    budget, names = graph.sweep.spec.storage.budget, {s.name for s in mine if s.kind == "cache"}
    if budget is None or not names:
        return None
    there = [s for s in graph.of("cache") if s.name in names or begun(s, workspace)]
    taken = sum(disk_bytes(s) or 0 for s in there)
    if taken <= budget:
        return None
    kept = ", ".join(s.name for s in there if s.name not in names)
    return (
        f"storage.budget is {told(budget)}, and with what is kept ({kept or 'nothing'}) "
        f"activations would take {told(taken)}: the trainings that read those must end first"
    )


def begun(stage: Stage, workspace: Workspace) -> bool:
    """Whether activations are on disk, all or in part."""
    place = folder(workspace, stage)
    status = state(place).status
    return status is not Status.ABSENT and (status is not Status.EVICTED or half_evicted(place))


def bucket(workspace: Workspace, stage: Stage) -> str | None:
    """The bucket that holds a stage's data, or will; None where they are on this disk."""
    work = stage.work
    if not isinstance(work, CacheWork):
        return None
    place = folder(workspace, stage)
    if not place.path.exists():
        return work.cache.store
    from sae_cli.store.buckets.locate import data_url  # numpy comes with it

    url = data_url(place.path)
    begun = place.part_commits.is_dir() or place.commits.exists()
    return url if url is not None or begun else work.cache.store


def _left(workspace: Workspace, stage: Stage, planned: int) -> int:
    """Bytes that a stage still writes to this disk, of those that it is planned to take."""
    return max(0, planned - size_of(folder(workspace, stage).path))


def _used(stages: Iterable[Stage], workspace: Workspace) -> dict[str, int]:
    return used_bytes(folder(workspace, s) for s in stages)
