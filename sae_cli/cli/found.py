"""What `results`, `compare` and `report` do and print with `--json`: one versioned model each.

Apart from the verbs, which load this when they are asked for: its models take longer to build than
a look at a plan may take.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sae_cli.cli.session import Opened
from sae_cli.plan.graph import Graph
from sae_cli.report.compare import Comparison
from sae_cli.report.elbow import Elbow, elbows
from sae_cli.report.files import put, write_tables
from sae_cli.report.gather import gather, proper
from sae_cli.report.page import page, sections
from sae_cli.report.pareto import METRICS, Front, fronts
from sae_cli.report.plots import write_plots
from sae_cli.report.results import SaeRow
from sae_cli.report.saebench import write_saebench
from sae_cli.report.seeds import OverSeeds, over_seeds
from sae_cli.report.table import LongRow, long_rows
from sae_cli.spec.base import Frozen
from sae_cli.store.layout import Workspace

PAGE, PLOTS = "report.html", "plots"


class SweepResults(Frozen):
    """The results of one sweep, in long form."""

    sweep: str
    rows: tuple[LongRow, ...]
    fronts: tuple[Front, ...]
    """SAEs of a place that no other there beats in L0 and the metric together."""
    elbows: tuple[Elbow, ...]
    seeds: tuple[OverSeeds, ...] = ()
    """Means over seeds, where there are three or more of otherwise equal SAEs."""
    files: tuple[str, ...]
    """Where the rows were written."""
    saebench: tuple[str, ...] = ()
    """Files in SAEBench's form, where they were asked for."""
    notes: tuple[str, ...] = ()
    """What those files lack."""


class ResultsOutput(Frozen):
    """`saectl results --json`."""

    version: Literal[1] = 1
    sweeps: tuple[SweepResults, ...]


class CompareOutput(Frozen):
    """`saectl compare --json`."""

    version: Literal[1] = 1
    comparison: Comparison


class SweepReport(Frozen):
    """The report of one sweep."""

    sweep: str
    report: str
    """The page."""
    tables: tuple[str, ...]
    plots: tuple[str, ...]
    no_png: str | None
    """Why there are no PNG files; null where there are."""


class ReportOutput(Frozen):
    """`saectl report --json`."""

    version: Literal[1] = 1
    sweeps: tuple[SweepReport, ...]


def results_of(
    opened: Opened, workspace: Workspace, saebench: Path | None = None
) -> tuple[SweepResults, list[SaeRow]] | None:
    """Write the tables of a sweep, and SAEBench's files into a folder; what is in the tables, in
    long form and in wide. None where nothing was evaluated."""
    graph = opened.graph
    found = gather(graph, workspace)
    if not found:
        return None
    rows, wide = long_rows(found), [each.row for each in found]
    own = [each.row for each in proper(found)]
    files = write_tables(rows, workspace.run_dir(graph.sweep.spec.name))
    theirs, notes = ([], []) if saebench is None else write_saebench(found, workspace, saebench)
    told = SweepResults(
        sweep=graph.sweep.spec.name,
        rows=tuple(rows),
        fronts=tuple(front for metric in METRICS for front in fronts(own, metric)),
        elbows=tuple(elbows(own)),
        seeds=tuple(over_seeds(found)),
        files=tuple(map(str, files)),
        saebench=tuple(map(str, theirs)),
        notes=tuple(notes),
    )
    return told, wide


def report_of(graph: Graph, workspace: Workspace, *, plots: bool) -> SweepReport | None:
    """Write tables, page and plots of a sweep; None where nothing was evaluated. Without `plots`
    none is written: what a run ends with should cost little."""
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
