"""`saectl report`: what was found, as one page that opens anywhere, and its plots as files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sae_cli.cli import options as o
from sae_cli.cli.session import open_sweeps
from sae_cli.errors import FAILED, OK, SaectlError
from sae_cli.plan.graph import Graph, Stage
from sae_cli.store.layout import Workspace


def report(
    spec: o.SpecFile = None,
    model: o.Model = None,
    sets: o.Sets = None,
    store: o.Store = o.DEFAULT_STORE,
    json: o.Json = False,
    verbose: o.Verbose = False,
) -> int:
    """One self-contained page with plots and tables of all that was measured."""
    from sae_cli.cli.found import PLOTS, ReportOutput, report_of

    workspace = Workspace(store)
    sweeps = open_sweeps(spec, model, sets, workspace, online=False)
    made = [report_of(opened.graph, workspace, plots=True) for opened in sweeps]
    if json:
        print(ReportOutput(sweeps=tuple(m for m in made if m)).model_dump_json(indent=2))
    for opened, one in zip(sweeps, made, strict=True):
        if one is None:
            name = opened.graph.sweep.spec.name
            print(f"{name}: no SAE was evaluated yet: saectl eval", file=sys.stderr)
        elif not json:
            print(f"report: {one.report}")
            print(f"plots: {len(one.plots)} in {Path(one.report).parent / PLOTS}")
            if one.no_png:
                print(one.no_png)
    return OK if any(made) else FAILED


def keep(runs: Iterable[tuple[Graph, Sequence[Stage]]], workspace: Workspace, told: bool) -> None:
    """Write tables and page of the sweeps whose chosen stages hold an evaluation; what can't be
    written is a warning, for the work itself is done."""
    for graph, chosen in runs:
        if not any(stage.kind == "eval" for stage in chosen):
            continue
        from sae_cli.cli.found import report_of

        try:
            made = report_of(graph, workspace, plots=False)
        except (SaectlError, OSError) as error:
            print(f"warning: no report of {graph.sweep.spec.name}: {error}", file=sys.stderr)
            continue
        if made is not None and told:
            print(f"report: {made.report}")
