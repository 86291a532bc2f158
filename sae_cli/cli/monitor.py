"""`saectl monitor`: rules over features, on a stream of texts; and their thresholds, from texts
that they should not fire on."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from sae_cli.cli import options as o
from sae_cli.cli.inspect import NO_LIMIT, opened
from sae_cli.cli.named import named_sae
from sae_cli.errors import FAILED, OK, UsageError
from sae_cli.store.layout import Workspace

if TYPE_CHECKING:  # torch and the models of the output take long
    from sae_cli.cli.monitoring import Watch


def monitor(
    rules: Annotated[
        Path, typer.Argument(metavar="RULES", show_default=False, help="A rules file (YAML).")
    ],
    texts: Annotated[
        str,
        typer.Argument(metavar="[FILE]", help="JSON lines, each with a text; -: from stdin."),
    ] = "-",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="FILE",
            show_default=False,
            help="Find the thresholds on these texts, on which no rule should fire, and write a "
            "rules file that holds them.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            show_default=False,
            help="With --calibrate: that file. Default: RULES.calibrated.yaml",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            show_default=False,
            help="Write counts, and what rules are worth by the texts' labels, as JSON.",
        ),
    ] = None,
    store: o.Store = o.DEFAULT_STORE,
    model: o.ModelFolder = None,
    yes: o.Yes = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Watch texts by rules over features: JSON lines in, a record a line out, at once."""
    from sae_cli.spec.rules import load_rules

    read = load_rules(rules)
    if calibrate is None and out is not None:
        raise UsageError("--out is where --calibrate writes: give that too")
    if calibrate is not None and (texts != "-" or report is not None):
        raise UsageError("--calibrate finds thresholds and watches nothing: leave the rest out")
    from sae_cli.cli.origin import hold_to, model_identity, runnable, sae_identity

    if calibrate is None:
        runnable(read, rules)
    else:
        from sae_cli.cli.calibrating import target_of

        out = target_of(read, rules, calibrate, out, yes)
    source = None if calibrate is not None else _open(texts)
    named = named_sae(read.sae, Workspace(store), model)
    from sae_cli.studies.watch.monitor import Monitor

    live = opened(named)
    identity = sae_identity(named, live), model_identity(named, live.reader)
    if calibrate is None and read.calibration is not None:
        hold_to(read.calibration, *identity, rules)
    watcher = Monitor(live, read)
    if named.limit_unknown and not quiet:
        print(f"note: {NO_LIMIT}", file=sys.stderr)
    if calibrate is not None:
        assert out is not None
        from sae_cli.cli.calibrating import calibrated

        return calibrated(watcher, calibrate, out, identity, rules)
    assert source is not None
    if read.calibration is not None and str(live.reader.device) != read.calibration.device:
        print(
            f"note: calibrated on {read.calibration.device}, this is {live.reader.device}: last "
            "digits may differ",
            file=sys.stderr,
        )
    from sae_cli.cli.monitoring import Watch

    return _watch(Watch(watcher, rules, named.name), source, report, quiet)


def _open(texts: str) -> BinaryIO:
    if texts == "-":
        if sys.stdin.isatty():
            print('reading lines as {"text": "..."} from here; Ctrl-D ends them', file=sys.stderr)
        return sys.stdin.buffer
    try:
        return Path(texts).open("rb")
    except OSError as error:
        raise UsageError(f"{texts}: {error.strerror or error}") from error


def _watch(watch: Watch, source: BinaryIO, report: Path | None, quiet: bool) -> int:
    """Record after record; what was counted is told at the end, also at that of Ctrl-C."""
    try:
        for record in watch.records(source):
            sys.stdout.write(record + "\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        _told(watch, report, quiet)
        raise
    _told(watch, report, quiet)
    return FAILED if watch.bad else OK


def _told(watch: Watch, report: Path | None, quiet: bool) -> None:
    found = watch.report()
    if report is not None:
        from sae_cli.store.atomic import write_bytes

        write_bytes(report, (found.model_dump_json(indent=2) + "\n").encode())
    if quiet and not found.bad:
        return
    with redirect_stdout(sys.stderr):
        watch.tell(found)
