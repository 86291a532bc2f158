"""`saectl verify`: hashes what is stored again, names every damage, and with --repair undoes it; of
a release's folder, asks whether it still says what its records say (`audit`)."""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.output import DamageLine, VerifyLine, VerifyOutput
from sae_cli.cli.progress import reporter
from sae_cli.cli.session import Opened, open_sweeps
from sae_cli.errors import FAILED, OK, UsageError
from sae_cli.plan.place import folder
from sae_cli.run.audit import TOKENS
from sae_cli.run.signals import stop_requests
from sae_cli.spec.problems import closest
from sae_cli.spec.work import KINDS
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records.space import told

if TYPE_CHECKING:  # what hashes brings numpy along: the other verbs need not wait for it
    from sae_cli.cli.repair import Outcome
    from sae_cli.store.records.verify import Check, Flaw


def verify(
    spec: o.SpecFile = None,
    model: o.Model = None,
    sets: o.Sets = None,
    store: o.Store = o.DEFAULT_STORE,
    only: o.Only = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Capture damaged activations again, and do other damaged stages anew.",
        ),
    ] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="Hash with N threads.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=0,
            metavar="N",
            show_default=False,
            help="Of a release's folder: measure on N held-out tokens (default 4096; 0: not).",
        ),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Hash everything that is stored again, and name what is damaged: array, shard, rows, file.

    Without SPEC: every stage of the workspace. Exit 0: all is as it was committed; 1: damage was
    found (and, with --repair, could not be undone to the same bytes).

    SPEC may be a release's folder, wherever it is: its files are held against its manifest, its
    cards against its records, and numbers are measured again where model and text are at hand.
    """
    from sae_cli.cli.audit import is_folder, verify_release

    workspace = Workspace(store)
    if is_folder(spec):
        assert spec is not None
        if repair or only or sets or threads:
            raise UsageError(
                f"{spec} is a release: --repair, --only, --set and --threads are for workspaces",
                hint="a damaged release is made again: saectl release SPEC --only release --force",
            )
        tokens = TOKENS if samples is None else samples
        return verify_release(spec, workspace, model=model, tokens=tokens, json=json, quiet=quiet)
    if samples is not None:
        raise UsageError("--samples is about a release's folder: name one")
    from sae_cli.cli.repair import Repairer
    from sae_cli.store.records import verify as checking

    opened: list[Opened] = []
    if spec is not None or model is not None:
        opened = open_sweeps(spec, model, sets, workspace, online=False)
    places = _of_sweeps(opened, workspace, only) if opened else _of_workspace(workspace, only)
    report = reporter(quiet=quiet or json)
    count = threads or os.cpu_count() or 1

    def again(place: StageDir) -> Check:
        found = checking.look(place)
        checking.check([found], count, lambda _: None)
        return found

    started = time.monotonic()
    try:
        checks = [checking.look(place) for place in places]
        total = sum(each.bytes for each in checks)
        report.begin("verify", -(-total // 10**6), 0, "MB")
        checking.check(checks, count, lambda n: report.at(n // 10**6))
        seconds = time.monotonic() - started
        outcomes: dict[str, Outcome] = {}
        damaged = [c for c in checks if c.flaws or c.repairing]
        if repair and damaged:
            with stop_requests(report.note) as stop:
                repairer = Repairer(workspace, opened, report, stop, again)
                for each in sorted(damaged, key=lambda c: KINDS.index(c.stage.kind)):
                    outcomes[str(each.stage)] = repairer.repair(each)
    finally:
        report.close()
    lines = [_line(each, outcomes.get(str(each.stage))) for each in checks]
    ok = all(x.verdict in ("ok", "passed over", "repaired") for x in lines)
    if json:
        said = VerifyOutput(ok=ok, bytes=total, seconds=round(seconds, 3), stages=tuple(lines))
        print(said.model_dump_json(indent=2))
    elif not lines:
        print(f"{store}: nothing there yet")
    else:
        _print(lines, total, seconds, asked=repair)
    return OK if ok else FAILED


def _of_workspace(workspace: Workspace, only: Sequence[str] | None) -> list[StageDir]:
    """The stages on disk that the globs name, or all of them, in the order of their kinds."""
    every = [p for kind in KINDS for p in workspace.stages(kind)]
    if not only:
        return every
    chosen: set[str] = set()
    for glob in only:
        found = {str(p) for p in every if _named(p, glob)}
        if not found:
            guess = closest(glob, [n for p in every for n in (p.kind, p.slug, p.key)])
            raise UsageError(
                f"--only {glob}: matches no stage of {workspace.root}"
                + (f"  did you mean '{guess}'?" if guess else ""),
                hint="saectl ls lists them",
            )
        chosen |= found
    return [p for p in every if str(p) in chosen]


def _named(place: StageDir, glob: str) -> bool:
    names = (
        f"{place.kind}/{place.path.name}", f"{place.kind}/{place.slug}", place.path.name,
        place.slug, place.kind, place.key,
    )  # fmt: skip
    return any(fnmatch.fnmatchcase(name, glob) for name in names)


def _of_sweeps(
    opened: Sequence[Opened], workspace: Workspace, only: Sequence[str] | None
) -> list[StageDir]:
    stages = [
        stage for one in opened for stage in (one.graph.select(only) if only else one.graph.stages)
    ]
    return [folder(workspace, stage) for stage in stages]


def _line(found: Check, outcome: Outcome | None) -> VerifyLine:
    place = found.stage
    verdict = "passed over" if found.passed else "damaged" if found.flaws else "ok"
    why = found.passed
    if outcome is not None:
        verdict, why = outcome.verdict, outcome.why
    elif verdict == "ok" and found.repairing:
        why = "a repair was begun; --repair sees it to its end"
    return VerifyLine(
        kind=place.kind,
        slug=place.slug,
        key=place.key,
        path=str(place),
        verdict=verdict,
        why=why,
        arrays=found.arrays,
        shards=found.shards,
        files=found.files,
        bytes=found.bytes,
        damages=tuple(map(_damage, found.flaws)),
    )


def _damage(flaw: Flaw) -> DamageLine:
    d = flaw.damage
    if d is None:
        return DamageLine(what=flaw.what, shard=flaw.shard[1] if flaw.shard else None)
    return DamageLine(
        what=flaw.what,
        array=f"{d.table}.zarr/{d.column}",
        shard=d.shard,
        first_row=d.first,
        last_row=d.last,
        file=d.file,
    )


def _print(lines: Sequence[VerifyLine], size: int, seconds: float, *, asked: bool) -> None:
    render.table(
        ["stage", "name", "key", "arrays", "shards", "files", "bytes", "verdict", ""],
        [
            (
                x.kind, x.slug, x.key, x.arrays or "", x.shards or "", x.files or "",
                told(x.bytes) if x.bytes else "", x.verdict, x.why or "",
            )
            for x in lines
        ],
        right=["arrays", "shards", "files", "bytes"],
    )  # fmt: skip
    for x in lines:
        for damage in x.damages:
            print(f"{x.kind}/{x.slug}-{x.key}: {damage.what}")
    count = sum(len(x.damages) for x in lines)
    rate = f" ({told(int(size / seconds))}/s)" if seconds > 0 else ""
    print(
        f"{told(size)} hashed in {seconds:.1f} s{rate}; {count or 'no'} damage{'s' * (count > 1)}"
    )
    if not asked and any(x.verdict == "damaged" for x in lines):
        print("saectl verify --repair makes them anew")
