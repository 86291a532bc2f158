"""`saectl validate` and `saectl plan`: what a sweep says and would do. Both only look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.output import PlanOutput, SweepPlan, ValidateOutput, plan_line, wave_lines
from sae_cli.cli.session import Opened, open_sweeps
from sae_cli.errors import OK, SpecError
from sae_cli.plan.calibration import newest
from sae_cli.plan.choose import Choice, choose
from sae_cli.plan.graph import Graph
from sae_cli.plan.jobs import coalesce
from sae_cli.plan.place import folder
from sae_cli.plan.predict import Totals, predicted, totals
from sae_cli.plan.reason import Row, explain
from sae_cli.plan.room import Room, room
from sae_cli.plan.waves import schedule
from sae_cli.spec import load as loading
from sae_cli.store.layout import Workspace


def validate(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A sweep file.")],
    model: o.Model = None,
    sets: o.Sets = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Check a sweep file: every problem at once, each with its line."""
    path = loading.find(spec)
    try:
        sweep = loading.load(path, sets or (), model)
    except SpecError as e:
        if not json:
            raise
        print(ValidateOutput(ok=False, error=e.what).model_dump_json(indent=2))
        return e.exit_code
    if json:
        said = ValidateOutput(
            ok=True, sweep=sweep.spec.name, models=tuple(sweep.models), saes=len(sweep.cells)
        )
        print(said.model_dump_json(indent=2))
    elif not quiet:
        count = len(sweep.cells)
        print(f"{spec}: ok, {count} SAE{'s' if count != 1 else ''} on {', '.join(sweep.models)}")
    return OK


def plan(
    spec: o.SpecFile = None,
    model: o.Model = None,
    sets: o.Sets = None,
    store: o.Store = o.DEFAULT_STORE,
    only: o.Only = None,
    every: o.All = False,
    force: o.Force = False,
    force_downstream: o.ForceDownstream = False,
    json: o.Json = False,
    verbose: o.Verbose = False,
) -> int:
    """What `saectl run` would do, stage by stage, and why. Touches nothing."""
    workspace = Workspace(store)
    sweeps = open_sweeps(spec, model, sets, workspace, online=False, every=every)

    def choice(graph: Graph) -> Choice:
        return choose(graph, None, only or (), force=force, downstream=force_downstream)

    show(sweeps, workspace, choice, as_json=json)
    return OK


def show(
    sweeps: Sequence[Opened],
    workspace: Workspace,
    choice: Callable[[Graph], Choice],
    *,
    as_json: bool,
) -> None:
    """Print the plan of each sweep, for the stages that `choice` takes from it."""
    plans, calibration = [], newest(workspace)
    for opened in sweeps:
        chosen = choice(opened.graph)
        rows = explain(opened.graph, workspace, chosen.stages, chosen.force)
        asked = room(opened.graph, rows, workspace)
        todo = [r.stage for r in rows if r.action in ("run", "wait")]
        ahead = schedule(opened.graph, todo, workspace)
        cost = totals([job for _, part in ahead for job in coalesce(part)], calibration)
        if as_json:
            times = predicted([r.stage for r in rows], calibration)
            plan = as_plan(opened, rows, workspace, asked, times, cost)
            plans.append(plan.model_copy(update={"waves": wave_lines(ahead)}))
            continue
        render.plan(rows, asked)
        render.waves(wave_lines(ahead), opened.graph.sweep.spec.storage.budget)
        if cost.jobs:
            render.totals(cost)
        if opened.unpinned:
            print(f"keys are provisional until a run pins {', '.join(opened.unpinned)}")
    if as_json:
        print(PlanOutput(sweeps=tuple(plans)).model_dump_json(indent=2))


def as_plan(
    opened: Opened,
    rows: Sequence[Row],
    workspace: Workspace,
    asked: Room | None = None,
    times: Mapping[str, float] | None = None,
    cost: Totals | None = None,
) -> SweepPlan:
    """One sweep's rows for `--json`; `times` are predicted seconds by the stages' names."""
    known = times or {}
    return SweepPlan(
        sweep=opened.graph.sweep.spec.name,
        unpinned=opened.unpinned,
        stages=tuple(
            plan_line(r, folder(workspace, r.stage), known.get(r.stage.name)) for r in rows
        ),
        room=asked,
        totals=cost,
    )
