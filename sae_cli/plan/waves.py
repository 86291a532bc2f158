"""A budget of disk to waves: which activations are there at the same time.

A wave is captured, its SAEs are trained and evaluated, its activations are freed; then comes the
next. A forward costs what its deepest layer costs, and each wave of a model is one. So a model's
arrays, sorted by layer, are cut where the deepest layers of all waves add up to least.

What is on disk already is the first wave: it costs no forward, and a run that was killed, or one
that joins another, goes on with the wave that was begun. All this is read from disk each time, so
whoever looks finds the same waves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sae_cli.errors import SaectlError
from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.jobs import coalesce, disk_bytes
from sae_cli.plan.place import folder
from sae_cli.plan.room import begun
from sae_cli.spec.work import CacheWork, TrainWork
from sae_cli.store.layout import Workspace
from sae_cli.store.records.space import told
from sae_cli.store.records.status import Status, state

RECORDS = 16 * 1024
"""Bytes of an array beside its rows and their marks, at most: metadata, commits, statistics."""


@dataclass(frozen=True)
class Wave:
    """Captures whose activations are on disk together."""

    stages: tuple[Stage, ...]
    bytes: int
    """What their activations take."""
    begun: bool = False
    """They are on disk already, in part at least."""


def waves(graph: Graph, stages: Collection[Stage], workspace: Workspace, budget: int) -> list[Wave]:
    """The waves in which `stages` (those that are to be done) are done, first to last.

    Raises SaectlError when an SAE needs more at once than `budget` (bytes) holds, or when sizes
    are not known.
    """
    read = {d.name for s in stages if isinstance(s.work, TrainWork) for d in s.deps.values()}
    read |= {s.name for s in stages}
    wanted = [s for s in graph.of("cache") if s.name in read]
    arrays = graph.of("cache")
    there = {s.name for s in arrays if begun(s, workspace)}
    groups = _together(wanted, [s for s in stages if s.kind == "train"])
    open_ = [group for group in groups if any(s.name in there for s in group)]
    others = sum(_size(s) for s in arrays if s.name in there and s not in wanted)
    if sum(map(_total, open_)) + others > budget:  # nothing may be added: use what is complete
        done = {s.name for s in wanted if state(folder(workspace, s)).status is Status.DONE}
        open_ = [group for group in open_ if all(s.name in done for s in group)]
    rest = [group for group in groups if group not in open_]
    parts = [group for group in rest if any(s.name in there for s in group)]
    for group in parts:  # one by one, beside what is there of the others
        beside = sum(_size(s) for g in parts for s in g if s.name in there and g is not group)
        _refuse_too_large(group, budget, others + beside, graph, there)
    fresh = [group for group in rest if group not in parts]
    for group in fresh:
        _refuse_too_large(group, budget, others, graph, there)
    first = [s for group in open_ for s in group]
    out = [Wave(tuple(s for s in wanted if s in first), _total(first), True)] if first else []
    out += [Wave(group, _total(group), True) for group in parts]
    for shared in coalesce([s for group in fresh for s in group]):  # those of one forward
        out += _cut([group for group in fresh if group[0] in shared.stages], budget - others)
    return out


def schedule(
    graph: Graph, stages: Sequence[Stage], workspace: Workspace
) -> list[tuple[Wave | None, list[Stage]]]:
    """`stages` wave by wave; all of them at once, in no wave, where there is no budget or no need.

    Raises as `waves` does.
    """
    budget = graph.sweep.spec.storage.budget
    ahead = [] if budget is None else waves(graph, stages, workspace, budget)
    if len(ahead) < 2:
        return [(ahead[0] if ahead else None, list(stages))]
    out: list[tuple[Wave | None, list[Stage]]] = []
    left = list(stages)
    for wave in ahead[:-1]:
        part = within(wave, left)
        names = {s.name for s in part}
        left = [s for s in left if s.name not in names]
        out.append((wave, part))
    return [*out, (ahead[-1], left)]


def within(wave: Wave, left: Sequence[Stage]) -> list[Stage]:
    """Those of `left` (inputs before their readers) that can be done while `wave` is on disk."""
    there, late = {s.name for s in wave.stages}, set[str]()
    for stage in left:
        missing = stage.kind == "cache" and stage.name not in there
        if isinstance(stage.work, TrainWork):  # an import reads statistics, which stay
            missing = any(d.kind == "cache" and d.name not in there for d in stage.deps.values())
        if missing or any(d.name in late for d in stage.deps.values()):
            late.add(stage.name)
    return [s for s in left if s.name not in late]


def _cut(groups: Sequence[tuple[Stage, ...]], budget: int) -> list[Wave]:
    """The waves of one model and text: runs of groups, sorted by layer, of least cost."""
    line = sorted(groups, key=_deepest)
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # cost, waves, where the last one starts
    for end in range(1, len(line) + 1):
        size, found = 0, []
        for start in range(end - 1, -1, -1):
            size += _total(line[start])
            if size > budget:
                break
            cost, count, _ = best[start]
            found.append((cost + _deepest(line[end - 1]) + 1, count + 1, start))
        best.append(min(found))
    cuts, end = [], len(line)
    while end:
        start = best[end][2]
        cuts.append(tuple(s for group in line[start:end] for s in group))
        end = start
    return [Wave(stages, _total(stages)) for stages in reversed(cuts)]


def _together(caches: Sequence[Stage], trains: Sequence[Stage]) -> list[tuple[Stage, ...]]:
    """Captures in groups that some SAE reads together: a transcoder reads two."""
    home = {s.name: [s] for s in caches}
    for train in trains:
        read = [home[d.name] for d in train.deps.values() if d.name in home]
        for other in read[1:]:
            if other is not read[0]:
                read[0].extend(other)
                home.update({s.name: read[0] for s in other})
    groups = {id(group): group for group in home.values()}
    return [tuple(group) for group in groups.values()]


def _total(group: Sequence[Stage]) -> int:
    return sum(map(_size, group))


def _deepest(group: Sequence[Stage]) -> int:
    return max(s.work.layer for s in group if isinstance(s.work, CacheWork))


def _size(stage: Stage) -> int:
    size = disk_bytes(stage)
    if size is None:
        raise SaectlError(
            f"storage.budget: the size of {stage.name} is not known before its model's config.json "
            "is on this machine",
            hint="`hf download ORG/NAME config.json`, or leave the budget out",
        )
    return size + RECORDS


def _refuse_too_large(
    group: Sequence[Stage], budget: int, kept: int, graph: Graph, there: Collection[str]
) -> None:
    size, names = _total(group), " and ".join(s.name for s in group)
    if size > budget:
        raise SaectlError(
            f"storage.budget is {told(budget)}, and {names} alone take{'s' * (len(group) == 1)} "
            f"{told(size)}",
            hint="raise storage.budget, lower data.tokens, or store them in int8 (cache.dtype)",
        )
    if size + kept > budget:
        left = [s.name for s in graph.of("cache") if s.name in there and s not in group]
        raise SaectlError(
            f"storage.budget is {told(budget)}: no room for {names} ({told(size)}) beside what is "
            f"kept ({told(kept)}): {', '.join(left)}",
            hint="those are freed once their SAEs are trained: see `saectl status`",
        )
