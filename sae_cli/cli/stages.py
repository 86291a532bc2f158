"""`saectl run` and its parts `cache`, `train`, `eval`, `steer`, `release`: do what is missing."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sae_cli.cli import ending, render, steered
from sae_cli.cli import options as o
from sae_cli.cli import push as pushing
from sae_cli.cli.ending import Outcome
from sae_cli.cli.gc import free_unneeded
from sae_cli.cli.plan import show
from sae_cli.cli.progress import reporter
from sae_cli.cli.report import keep
from sae_cli.cli.session import Opened, open_sweeps, recorded_words, remember
from sae_cli.errors import FAILED, OK, SaectlError, UsageError
from sae_cli.plan.choose import Choice, asks, choose
from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.place import folder
from sae_cli.plan.reason import Row, explain
from sae_cli.plan.room import refusal, room
from sae_cli.run import drive, slurm, waves
from sae_cli.run.base import tidy
from sae_cli.run.context import Context
from sae_cli.run.executors import pool_for
from sae_cli.run.signals import stop_requests
from sae_cli.spec.studies import StudyName
from sae_cli.spec.work import Kind, TrainWork
from sae_cli.store.layout import Workspace
from sae_cli.store.records.ledger import is_done
from sae_cli.store.records.space import free_bytes, told
from sae_cli.store.records.status import Status


@dataclass(frozen=True)
class _Wish:
    """What a stage verb was asked for."""

    kind: Kind | None
    only: Sequence[str]
    named: bool
    """A sweep was named. Otherwise the recorded ones are meant, and stay as they are."""
    force: bool
    force_downstream: bool
    keep_going: bool
    yes: bool
    sets: Sequence[str]
    quiet: bool
    verbose: bool
    executor: o.Where
    jobs: int | None
    render_only: bool
    worker: bool
    study: StudyName | None = None
    """The one study that is meant."""


def verb(
    name: str, kind: Kind | None, summary: str, study: StudyName | None = None
) -> Callable[..., int]:
    """The command for one kind of stage and what it needs; all kinds with None; of studies one."""

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
        executor: o.Executor = o.Where.LOCAL,
        jobs: o.Jobs = None,
        render_only: o.RenderOnly = False,
        worker: o.Worker = False,
        json: o.Json = False,
        quiet: o.Quiet = False,
        verbose: o.Verbose = False,
        push: o.Push = None,
        public: o.Public = False,
    ) -> int:
        workspace = Workspace(store)
        sweeps = open_sweeps(spec, model, sets, workspace, online=not dry_run, every=every)
        named = spec is not None or (model is not None and not every)
        if study is not None and not named:  # of the recorded ones, those that ask for it
            sweeps = [s for s in sweeps if asks(s.graph, study)] or sweeps
        wish = _Wish(
            kind, only or (), named, force, force_downstream,
            keep_going, yes, sets or (), quiet or json, verbose, executor, jobs, render_only,
            worker, study,
        )  # fmt: skip
        _refuse_senseless(wish)
        to = pushing.asked(push, public, sweeps, here=executor is not o.Where.SLURM)
        if dry_run:
            if to and pushing.preview(to, sweeps[0].graph, workspace, as_json=json):
                return OK
            show(sweeps, workspace, lambda graph: _choice(graph, wish), as_json=json)
            return OK
        outcomes = [_run(opened, workspace, wish) for opened in sweeps]
        pushed = None
        if not json:
            for outcome in outcomes:
                ending.show(outcome, workspace)
                if study == "steering":
                    steered.show(outcome.chosen, workspace)
        if to and ending.released(outcomes[0], workspace):
            pushed = pushing.send(to, outcomes[0].graph, workspace, quiet=wish.quiet)
        if json:
            ending.print_json(outcomes, workspace, pushed)
        elif pushed:
            print(pushing.tell(pushed))
        keep([(each.graph, each.chosen) for each in outcomes], workspace, told=not json)
        failed = [r for o in outcomes for r in o.results if r.ending in ("failed", "blocked")]
        for r in failed:
            log = f"\n  log: {r.path / 'log.txt'}" if r.ending == "failed" else ""
            print(f"error: {r.stage.name} {r.ending}: {r.cause}{log}", file=sys.stderr)
        if to and not ending.released(outcomes[0], workspace):
            print("error: nothing was pushed: the release is not made", file=sys.stderr)
            return FAILED
        return FAILED if failed or not any(o.chosen for o in outcomes) else OK

    command.__name__, command.__doc__ = name, summary
    if kind not in (None, "release"):  # nothing is pushed before the release
        told = inspect.signature(command, eval_str=True)
        kept = [p for n, p in told.parameters.items() if n not in ("push", "public")]
        command.__signature__ = told.replace(parameters=kept)  # type: ignore[attr-defined]
    return command


def _choice(graph: Graph, wish: _Wish) -> Choice:
    return choose(
        graph, wish.kind, wish.only, upstream=wish.named,
        force=wish.force, downstream=wish.force_downstream, study=wish.study,
    )  # fmt: skip


def _run(opened: Opened, workspace: Workspace, wish: _Wish) -> Outcome:
    graph = opened.graph
    choice = _choice(graph, wish)
    rows = explain(graph, workspace, choice.stages, choice.force)
    blocked = [r for r in rows if r.action == "blocked"]
    if blocked and wish.named and not wish.keep_going:
        raise SaectlError(
            f"{blocked[0].stage.name}: {blocked[0].reason}",
            hint="leave out --only, or choose with it what is needed too",
        )
    todo = [
        r.stage
        for r in rows
        if r.action in ("run", "wait") or (wish.worker and _freed_but_read(r, graph, workspace))
    ]
    for row in rows:
        if row.action == "skip":
            tidy(folder(workspace, row.stage))
    chosen = [r.stage for r in rows if r.action != "blocked"]
    _refuse_overfull(workspace, room(graph, rows, workspace).local, wish.yes)
    freed = [r.stage for r in rows if r.action == "skip" and r.state.status is Status.EVICTED]
    if not todo:
        return Outcome(graph, chosen, [], len(blocked), freed)
    report = reporter(quiet=wish.quiet)
    if wish.named and not wish.worker:
        aside = remember(graph, workspace)
        if aside is not None:
            report.note(
                f"runs/{graph.sweep.spec.name} now means this sweep; it was another one, which is "
                f"kept there as {aside}"
            )
    try:
        with stop_requests(report.note) as stop:
            context = Context(
                workspace,
                report,
                graph.sweep.spec.device,
                stop,
                set(choice.force),
                wish.verbose,
                room=partial(refusal, graph, workspace),
                memory=graph.sweep.spec.memory,
                sweep=recorded_words(graph, workspace, wish.sets),
                quiet=wish.quiet,
            )
            if wish.executor is o.Where.SLURM:
                _hand_over(todo, graph, context, wish)
                return Outcome(graph, chosen, [], len(blocked), freed, handed_over=True)
            pool = pool_for(wish.executor, wish.jobs, graph, todo, context)
            execute = partial(
                drive.run,
                context=context,
                pool=pool,
                keep_going=wish.keep_going,
                wait=not wish.worker,
                on_result=lambda r: report.note(ending.line(r)),
            )
            if wish.worker:
                results = execute(todo)
            else:
                free = partial(free_unneeded, graph, workspace)
                results = waves.run(todo, graph, context, execute, free, keep_going=wish.keep_going)
    finally:
        report.close()
        here = [folder(workspace, s) for s in graph.stages]
        workspace.link_run(graph.sweep.spec.name, [d for d in here if d.path.is_dir()])
    return Outcome(graph, chosen, results, len(blocked), freed)


def _freed_but_read(row: Row, graph: Graph, workspace: Workspace) -> bool:
    """Whether activations were freed that a training of the sweep still needs."""
    readers = [s for s in graph.dependants(row.stage) if isinstance(s.work, TrainWork)]
    return row.state.status is Status.EVICTED and not all(
        is_done(folder(workspace, s)) for s in readers
    )


def _refuse_senseless(wish: _Wish) -> None:
    """Raises UsageError for options that contradict each other."""
    if wish.render_only and wish.executor is not o.Where.SLURM:
        raise UsageError("--render-only writes scripts for Slurm: say --executor slurm with it")
    if wish.jobs is not None and wish.executor is not o.Where.LOCAL:
        raise UsageError(
            "--jobs is for this machine",
            hint="on a cluster, resources.KIND.at_once in the spec limits how many run at once",
        )
    if wish.executor is o.Where.SLURM and (wish.force or wish.force_downstream):
        raise UsageError(
            "--force can't be handed to Slurm: a job that is queued again would do it again",
            hint="--force here with --only, then hand over what is missing",
        )


def _hand_over(todo: Sequence[Stage], graph: Graph, context: Context, wish: _Wish) -> None:
    """Write Slurm's scripts for `todo`, submit them unless told not to, and say what was done."""
    place, steps = slurm.render(todo, graph, context)
    ids = {} if wish.render_only else slurm.submit(place)
    if wish.quiet:
        print(f"slurm: {place}" + "".join(f"\n{n}: {i}" for n, i in ids.items()), file=sys.stderr)
        return
    render.table(
        ["step", "jobs", "after", "id"],
        [(s.name, len(s.jobs), ", ".join(s.after), ids.get(s.name, "")) for s in steps],
        right=["jobs"],
    )
    if wish.render_only:
        print(f"nothing was submitted: bash {place / slurm.SUBMIT}")
    else:
        print(f"submitted; scripts and logs: {place}\nsaectl status says how far they are")


def _refuse_overfull(workspace: Workspace, needed: int, yes: bool) -> None:
    free = free_bytes(workspace.root)
    if needed > free and not yes:
        raise SaectlError(
            f"this needs {told(needed)} of disk, and {workspace.root} has {told(free)} free",
            hint="lower data.tokens, choose fewer cells with --only, use another --store, "
            "or insist with --yes",
        )
