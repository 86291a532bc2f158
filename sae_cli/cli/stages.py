"""`saectl run` and its four parts `cache`, `train`, `eval`, `release`: do what is missing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.output import RunOutput, StageLine
from sae_cli.cli.plan import show
from sae_cli.cli.progress import clock, reporter
from sae_cli.cli.session import Opened, open_sweeps, remember
from sae_cli.errors import FAILED, OK, SaectlError
from sae_cli.plan.choose import choose, forced
from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.place import folder
from sae_cli.plan.reason import explain
from sae_cli.report.results import rows as result_rows
from sae_cli.run import local
from sae_cli.run.base import Context, Result
from sae_cli.run.signals import stop_requests
from sae_cli.spec.work import Kind
from sae_cli.store.layout import Workspace


@dataclass(frozen=True)
class _Wish:
    """What the flags of a stage verb ask for."""

    only: Sequence[str]
    force: bool
    force_downstream: bool
    keep_going: bool
    yes: bool
    json: bool
    quiet: bool
    verbose: bool


def verb(name: str, kind: Kind | None, summary: str) -> Callable[..., int]:
    """The command for one kind of stage and what it needs; all kinds with None."""

    def command(
        spec: o.SpecFile = None,
        model: o.Model = None,
        sets: o.Sets = None,
        store: o.Store = o.DEFAULT_STORE,
        only: o.Only = None,
        every: o.All = False,
        dry_run: o.DryRun = False,
        force: o.Force = False,
        force_downstream: o.ForceDownstream = False,
        keep_going: o.KeepGoing = False,
        yes: o.Yes = False,
        json: o.Json = False,
        quiet: o.Quiet = False,
        verbose: o.Verbose = False,
    ) -> int:
        wish = _Wish(only or (), force, force_downstream, keep_going, yes, json, quiet, verbose)
        workspace = Workspace(store)
        sweeps = open_sweeps(spec, model, sets, workspace, online=not dry_run, every=every)
        if dry_run:
            show(sweeps, kind, workspace, wish.only, force, force_downstream, as_json=json)
            return OK
        return max(_run(opened, kind, workspace, wish) for opened in sweeps)

    command.__name__, command.__doc__ = name, summary
    return command


def _run(opened: Opened, kind: Kind | None, workspace: Workspace, wish: _Wish) -> int:
    graph = opened.graph
    chosen = choose(graph, kind, wish.only)
    force = forced(graph, kind, chosen, wish.force, wish.force_downstream)
    rows = explain(graph, workspace, chosen, force)
    blocked = [r for r in rows if r.action == "blocked"]
    if blocked and not wish.keep_going:
        first = blocked[0]
        raise SaectlError(
            f"{first.stage.name}: {first.reason}",
            hint=f"do it first: saectl run ... --only {first.stage.deps and _needed(first.reason)}",
        )
    todo = [r.stage for r in rows if r.action in ("run", "wait")]
    _refuse_overfull(workspace, sum(r.bytes or 0 for r in rows if r.action == "run"), wish.yes)
    remember(graph, workspace)
    report = reporter(quiet=wish.quiet or wish.json)
    context_force = set(force)
    results: list[Result] = []
    try:
        with stop_requests(report.note) as stop:
            context = Context(
                workspace, report, graph.sweep.spec.device, stop, context_force, wish.verbose
            )
            results = local.run(
                todo,
                context,
                keep_going=wish.keep_going,
                on_result=lambda r: report.note(_line(r)),
            )
    finally:
        report.close()
        here = [folder(workspace, s) for s in graph.stages]
        workspace.link_run(graph.sweep.spec.name, [d for d in here if d.path.is_dir()])
    return _tell(graph, chosen, results, workspace, wish)


def _needed(reason: str) -> str:
    return reason.removeprefix("needs ").split(",")[0]


def _refuse_overfull(workspace: Workspace, needed: int, yes: bool) -> None:
    there = workspace.root.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed > free and not yes:
        raise SaectlError(
            f"this needs {render.size(needed)} of disk, and {there} has {render.size(free)} free",
            hint="lower data.tokens, choose fewer cells with --only, use another --store, "
            "or insist with --yes",
        )


def _line(result: Result) -> str:
    took = f" in {clock(result.seconds)}" if result.ending == "done" else ""
    why = f": {result.cause}" if result.cause else ""
    return f"{result.ending:<8}{result.stage.name}{took}{why}"


def _tell(
    graph: Graph,
    chosen: Sequence[Stage],
    results: Sequence[Result],
    workspace: Workspace,
    wish: _Wish,
) -> int:
    failed = [r for r in results if r.ending in ("failed", "blocked")]
    found = result_rows(graph, workspace)
    released = [
        str(folder(workspace, s).path / graph.sweep.spec.name)
        for s in graph.of("release")
        if s in chosen and folder(workspace, s).done.is_file()
    ]
    if wish.json:
        lines = tuple(
            StageLine(
                kind=r.stage.kind,
                slug=r.stage.slug,
                key=r.stage.key,
                path=str(r.path),
                action=r.ending,
                reason=r.cause,
                seconds=round(r.seconds, 3),
            )
            for r in results
        )
        output = RunOutput(
            sweep=graph.sweep.spec.name,
            stages=lines,
            results=tuple(found),
            release=released[0] if released else None,
        )
        print(output.model_dump_json(indent=2))
    else:
        if not results:
            print(f"{graph.sweep.spec.name}: nothing to do, {len(chosen)} stages are done")
        if found and any(s.kind in ("eval", "release") for s in chosen):
            render.results(found)
        if released:
            print(f"release: {released[0]}")
    for r in failed:
        log = f"\n  log: {r.path / 'log.txt'}" if r.ending == "failed" else ""
        print(f"error: {r.stage.name} {r.ending}: {r.cause}{log}", file=sys.stderr)
    return FAILED if failed else OK
