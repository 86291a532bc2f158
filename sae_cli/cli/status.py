"""`saectl status`: where every stage stands, from disk alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.output import PlanOutput
from sae_cli.cli.plan import as_plan
from sae_cli.cli.progress import clock
from sae_cli.cli.session import open_sweeps
from sae_cli.errors import OK, WORK_FOUND
from sae_cli.plan.calibration import newest
from sae_cli.plan.place import folder
from sae_cli.plan.predict import predicted
from sae_cli.plan.reason import Row, ago, explain
from sae_cli.store.layout import Workspace
from sae_cli.store.records.status import Status, committed


def status(
    spec: o.SpecFile = None,
    model: o.Model = None,
    sets: o.Sets = None,
    store: o.Store = o.DEFAULT_STORE,
    every: o.All = False,
    json: o.Json = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 3 if there is anything left to do.")
    ] = False,
    verbose: o.Verbose = False,
) -> int:
    """Where every stage stands: done, running, stale, failed, waiting."""
    workspace = Workspace(store)
    work = False
    plans, calibration = [], newest(workspace)
    for opened in open_sweeps(spec, model, sets, workspace, online=False, every=every):
        rows = explain(opened.graph, workspace)
        work = work or any(r.action != "skip" for r in rows)
        times = predicted([r.stage for r in rows], calibration)
        if json:
            plans.append(as_plan(opened, rows, workspace, times=times))
            continue
        print(f"{opened.graph.sweep.spec.name}: {_counted(rows)}")
        render.table(
            ["stage", "name", "key", "status", ""],
            [
                (
                    *(r.stage.kind, r.stage.slug, r.stage.key, _word(r)),
                    _detail(r, workspace, times.get(r.stage.name)),
                )
                for r in rows
            ],
        )
    if json:
        print(PlanOutput(sweeps=tuple(plans)).model_dump_json(indent=2))
    return WORK_FOUND if check and work else OK


def _counted(rows: Sequence[Row]) -> str:
    """How many stages stand where: `12 of 62 stages done, 2 running, 48 waiting`."""
    others = Counter(_word(r) for r in rows if r.action != "skip")
    parts = [f", {n} {word}" for word, n in others.items()]
    return f"{sum(r.action == 'skip' for r in rows)} of {len(rows)} stages done{''.join(parts)}"


def _word(row: Row) -> str:
    """Where a stage stands; one that was never begun waits."""
    return "waiting" if row.state.status is Status.ABSENT else str(row.state.status)


def _detail(row: Row, workspace: Workspace, forecast: float | None) -> str:
    state, format_ = row.state, render.dtype(row)
    stored = f", {format_}" if format_ else ""
    step = "" if state.step is None else f"{state.step:,}/{state.total:,}  "
    if state.status is Status.DONE and state.done is not None:
        wanted = "" if forecast is None else f" (predicted {clock(forecast)})"
        return f"{ago(state.age)}, took {clock(state.done.seconds)}{wanted}{stored}"
    rows = committed(folder(workspace, row.stage)) if row.stage.kind == "cache" else None
    if rows is not None:
        step = f"{rows[0]:,}/{rows[1]:,} rows{stored}  "
    if state.left is not None:
        step += f"{clock(state.left)} left  "
    if state.status is Status.RUNNING and state.workers > 1:
        return f"{step}{state.workers} processes, the latest heard of {ago(state.age)}"
    if state.status is Status.RUNNING:
        return f"{step}on {state.host} pid {state.pid}, heard of {ago(state.age)}"
    if state.status is Status.STALE:
        return f"{step}{state.host} pid {state.pid} is gone; the next run takes over"
    if state.status is Status.FAILED:
        return f"{state.cause}  (log: {state.log})"
    if state.status is Status.PENDING:
        return f"{step}interrupted; the next run goes on"
    return row.reason if row.action != "skip" else ""
