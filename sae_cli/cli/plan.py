"""`saectl validate` and `saectl plan`: what a sweep says and would do. Both only look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.output import PlanOutput, plan_lines
from sae_cli.cli.session import Opened, open_sweeps
from sae_cli.errors import OK
from sae_cli.plan.choose import choose, forced
from sae_cli.plan.place import folder
from sae_cli.plan.reason import explain
from sae_cli.spec import load as loading
from sae_cli.spec.work import Kind
from sae_cli.store.layout import Workspace


def validate(
    spec: Path,
    model: o.Model = None,
    sets: o.Sets = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Check a sweep file: every problem at once, each with its line."""
    sweep = loading.load(loading.find(spec), sets or (), model)
    if not quiet:
        print(f"{spec}: ok, {len(sweep.cells)} SAEs on {', '.join(sweep.models)}")
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
    show(sweeps, None, workspace, only or (), force, force_downstream, as_json=json)
    return OK


def show(
    sweeps: Sequence[Opened],
    kind: Kind | None,
    workspace: Workspace,
    only: Sequence[str],
    force: bool,
    force_downstream: bool,
    *,
    as_json: bool,
) -> None:
    """Print the plan of each sweep."""
    for opened in sweeps:
        graph = opened.graph
        chosen = choose(graph, kind, only)
        again = forced(graph, kind, chosen, force, force_downstream)
        rows = explain(graph, workspace, chosen, again)
        if as_json:
            lines = plan_lines(rows, [str(folder(workspace, r.stage).path) for r in rows])
            output = PlanOutput(sweep=graph.sweep.spec.name, unpinned=opened.unpinned, stages=lines)
            print(output.model_dump_json(indent=2))
            continue
        render.plan(rows)
        if opened.unpinned:
            print(f"keys are provisional until a run pins {', '.join(opened.unpinned)}")
