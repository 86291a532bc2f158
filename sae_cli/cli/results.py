"""`saectl results`: the numbers of a sweep as a table to read, and as files to compute with."""

from __future__ import annotations

import sys

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.output import ResultsOutput, SweepResults
from sae_cli.cli.session import open_sweeps
from sae_cli.errors import FAILED, OK
from sae_cli.plan.graph import Graph
from sae_cli.report.elbow import elbows
from sae_cli.report.files import write_tables
from sae_cli.report.gather import gather
from sae_cli.report.pareto import METRICS, fronts
from sae_cli.report.table import long_rows
from sae_cli.store.layout import Workspace


def results(
    spec: o.SpecFile = None,
    model: o.Model = None,
    sets: o.Sets = None,
    store: o.Store = o.DEFAULT_STORE,
    json: o.Json = False,
    verbose: o.Verbose = False,
) -> int:
    """One long table of all that was measured (Parquet, JSONL), and a wide one on the screen."""
    workspace = Workspace(store)
    sweeps = open_sweeps(spec, model, sets, workspace, online=False)
    found = [_results(opened.graph, workspace) for opened in sweeps]
    if json:
        print(ResultsOutput(sweeps=tuple(line for line in found if line)).model_dump_json(indent=2))
    for opened, line in zip(sweeps, found, strict=True):
        name = opened.graph.sweep.spec.name
        if line is None:
            print(f"{name}: no SAE was evaluated yet: saectl eval", file=sys.stderr)
        elif not json:
            _print(opened.graph, line, workspace)
    return OK if any(found) else FAILED


def _results(graph: Graph, workspace: Workspace) -> SweepResults | None:
    """Write the files of a sweep and tell what is in them; None where nothing was evaluated."""
    found = gather(graph, workspace)
    if not found:
        return None
    rows, wide = long_rows(found), [each.row for each in found]
    files = write_tables(rows, workspace.run_dir(graph.sweep.spec.name))
    return SweepResults(
        sweep=graph.sweep.spec.name,
        rows=tuple(rows),
        fronts=tuple(front for metric in METRICS for front in fronts(wide, metric)),
        elbows=tuple(elbows(wide)),
        files=tuple(map(str, files)),
    )


def _print(graph: Graph, line: SweepResults, workspace: Workspace) -> None:
    wide = [each.row for each in gather(graph, workspace)]
    render.results(wide)
    render.elbows(line.elbows)
    for path in line.files:
        print(f"{len(line.rows)} rows: {path}")
