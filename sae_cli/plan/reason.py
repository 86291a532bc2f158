"""What would happen to each stage, and why: run, skip, wait, or blocked.

Reads records only. A stage whose spec changed says which field; a stage that must run because
its input is new names the input.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.jobs import disk_bytes
from sae_cli.plan.place import elders, folder, record_of, serves
from sae_cli.spec.work import KINDS
from sae_cli.store.atomic import read_json
from sae_cli.store.layout import Workspace
from sae_cli.store.records.ledger import FORMER
from sae_cli.store.records.status import State, Status, state

Action = Literal["run", "skip", "wait", "blocked"]


_ABSENCES = {
    Status.EVICTED: "whose data was freed",
    Status.ABSENT: "which is not chosen",
}


@dataclass(frozen=True)
class Row:
    """One line of a plan."""

    stage: Stage
    action: Action
    reason: str
    state: State
    bytes: int | None
    """Disk that the result will take; 0 for what is there already, None if not known."""


def explain(
    graph: Graph,
    workspace: Workspace,
    chosen: Sequence[Stage] | None = None,
    force: Collection[str] = (),
) -> list[Row]:
    """A row for each stage of `chosen` (default: all), in order.

    `force` holds the names of stages that are to be done again.
    """
    stages = list(graph.stages if chosen is None else chosen)
    states = {s.name: state(folder(workspace, s)) for s in graph.upstream(stages)}
    rows: dict[str, Row] = {}
    planned = {s.name for s in stages}
    for stage in reversed(stages):  # readers first: they decide whether freed data is needed again
        here = states[stage.name]
        action, reason = _decide(stage, here, planned, states, rows, workspace, force)
        size = 0 if action == "skip" else disk_bytes(stage)
        rows[stage.name] = Row(stage, action, reason, here, size)
    return [rows[s.name] for s in stages]


def _decide(
    stage: Stage,
    here: State,
    planned: Collection[str],
    states: dict[str, State],
    rows: dict[str, Row],
    workspace: Workspace,
    force: Collection[str],
) -> tuple[Action, str]:
    if stage.name in force:
        return _missing(stage, states, planned) or ("run", "forced")
    if here.status is Status.DONE:
        return "skip", f"done {ago(here.age)}"
    if here.status is Status.EVICTED:
        readers = [
            row.stage
            for row in reversed(rows.values())
            if row.action == "run"
            and any(d.name == stage.name for d in row.stage.deps.values())
            and not serves(Status.EVICTED, stage, row.stage)
        ]
        if not readers:
            return "skip", f"done; its data was freed {ago(here.age)}, nothing needs it"
        return "run", f"its data was freed {ago(here.age)}; needed by {readers[0].name}"
    missing = _missing(stage, states, planned)
    if missing is not None:
        return missing
    if here.status is Status.RUNNING:
        return "wait", f"running on {here.host} pid {here.pid}{_progress(here)}"
    if here.status is Status.STALE:
        return "run", f"resumes{_progress(here)}: {here.host} pid {here.pid} is gone"
    if here.status is Status.FAILED:
        return "run", f"tries again{_progress(here)}: {here.cause}"
    if here.status is Status.PENDING:
        again = (folder(workspace, stage).path / FORMER).exists()
        return "run", f"resumes{_progress(here)}" + (": it is made again" if again else "")
    return "run", _news(stage, states, workspace)


def _missing(
    stage: Stage, states: dict[str, State], planned: Collection[str]
) -> tuple[Action, str] | None:
    """Blocked or waiting, when an input is neither there nor about to be made."""
    for dep in stage.deps.values():
        status = states[dep.name].status
        if serves(status, dep, stage) or dep.name in planned:
            continue
        if status is Status.RUNNING:
            return "wait", f"{dep.name} is running"
        why = _ABSENCES.get(status, "which is not finished, and not chosen")
        return "blocked", f"needs {dep.name}, {why}"
    return None


def _news(stage: Stage, states: dict[str, State], workspace: Workspace) -> str:
    """Why a stage that was never begun is new: compared with its nearest elder of the same name."""
    before = elders(workspace, stage)
    if before:
        old, new = read_json(before[-1].spec), record_of(stage)
        changed = _changes(old.get("identity"), new["identity"], "")
        if changed:
            return "; ".join(changed[:3]) + ("; ..." if len(changed) > 3 else "")
        if old.get("version") != new["version"]:
            return f"{stage.kind} version {old.get('version')} -> {new['version']}"
        had, has = _inputs(old.get("deps", {})), _inputs(new["deps"])
        kinds = [role for role in (*KINDS, "target") if had.get(role) != has.get(role)]
        if kinds:
            return "new input: " + ", ".join(kinds)
    waiting = [d for d in stage.deps.values() if not serves(states[d.name].status, d, stage)]
    if waiting:
        names = dict.fromkeys(d.kind for d in waiting)
        return f"never done; after {', '.join(names)}"
    return "never done"


def _inputs(deps: Mapping[str, str]) -> dict[str, set[str]]:
    """The keys of a record's inputs by kind; a release has many of each."""
    found: dict[str, set[str]] = {}
    for role, key in deps.items():
        found.setdefault(role.split("/")[0], set()).add(key)
    return found


def _changes(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name in dict.fromkeys([*old, *new])
            for line in _changes(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for i, (a, b) in enumerate(zip(old, new, strict=True))
            for line in _changes(a, b, f"{path}.{i}")
        ]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 24 else text[:21] + "..."


def _progress(here: State) -> str:
    if here.step is None or here.total is None:
        return ""
    return f" at {here.step:,}/{here.total:,}"


def ago(seconds: float | None) -> str:
    """A time in the past for people."""
    if seconds is None:
        return "some time ago"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago" if seconds >= 1 else "just now"
