"""`saectl report`: what was found, as one page that opens anywhere, and its plots as files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sae_cli.cli import options as o
from sae_cli.cli.output import ReportOutput, SweepReport
from sae_cli.cli.session import open_sweeps
from sae_cli.errors import FAILED, OK, SaectlError
from sae_cli.plan.graph import Graph, Stage
from sae_cli.report.files import put, write_tables
from sae_cli.report.gather import gather
from sae_cli.report.page import page, sections
from sae_cli.report.plots import write_plots
from sae_cli.report.table import long_rows
from sae_cli.store.layout import Workspace

PAGE, PLOTS = "report.html", "plots"


def report(
    spec: o.SpecFile = None,
    model: o.Model = None,
    sets: o.Sets = None,
    store: o.Store = o.DEFAULT_STORE,
    json: o.Json = False,
    verbose: o.Verbose = False,
) -> int:
    """One self-contained page with plots and tables of all that was measured."""
    workspace = Workspace(store)
    sweeps = open_sweeps(spec, model, sets, workspace, online=False)
    made = [_write(opened.graph, workspace, plots=True) for opened in sweeps]
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
        try:
            made = _write(graph, workspace, plots=False)
        except (SaectlError, OSError) as error:
            print(f"warning: no report of {graph.sweep.spec.name}: {error}", file=sys.stderr)
            continue
        if made is not None and told:
            print(f"report: {made.report}")


def _write(graph: Graph, workspace: Workspace, *, plots: bool) -> SweepReport | None:
    """Tables, page and plots of a sweep; None where nothing was evaluated. Without `plots` none
    is written: what a run ends with should cost little."""
    found = gather(graph, workspace)
    if not found:
        return None
    view = workspace.run_dir(graph.sweep.spec.name)
    tables = write_tables(long_rows(found), view)
    parts = sections(found)
    put(view / PAGE, page(graph, found, parts).encode())
    charts = [chart for part in parts for chart in part.charts]
    drawn, why = write_plots(charts, view / PLOTS) if plots else ([], "")
    return SweepReport(
        sweep=graph.sweep.spec.name,
        report=str(view / PAGE),
        tables=tuple(map(str, tables)),
        plots=tuple(map(str, drawn)),
        no_png=why or None,
    )
