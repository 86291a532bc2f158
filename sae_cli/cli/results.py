"""`saectl results`: the numbers of a sweep as a table to read, and as files to compute with."""

from __future__ import annotations

import sys

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.session import open_sweeps
from sae_cli.errors import FAILED, OK
from sae_cli.store.layout import Workspace


def results(
    spec: o.SpecFile = None,
    model: o.Model = None,
    sets: o.Sets = None,
    store: o.Store = o.DEFAULT_STORE,
    saebench: o.SaeBench = None,
    json: o.Json = False,
    verbose: o.Verbose = False,
) -> int:
    """One long table of all that was measured (Parquet, JSONL), and a wide one on the screen."""
    from sae_cli.cli.found import ResultsOutput, results_of

    workspace = Workspace(store)
    sweeps = open_sweeps(spec, model, sets, workspace, online=False)
    found = [results_of(opened, workspace, saebench) for opened in sweeps]
    if json:
        print(ResultsOutput(sweeps=tuple(f[0] for f in found if f)).model_dump_json(indent=2))
    for opened, each in zip(sweeps, found, strict=True):
        if each is None:
            name = opened.graph.sweep.spec.name
            print(f"{name}: no SAE was evaluated yet: saectl eval", file=sys.stderr)
        elif not json:
            told, wide = each
            render.results(wide)
            render.elbows(told.elbows)
            render.seeds(told.seeds)
            for path in told.files:
                print(f"{len(told.rows)} rows: {path}")
            if saebench is not None:
                print(f"{len(told.saebench)} files for SAEBench: {saebench}")
            for note in told.notes:
                print(f"note: {note}", file=sys.stderr)
    return OK if any(found) else FAILED
