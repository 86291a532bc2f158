"""`saectl`: the verbs, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import typer

from sae_cli import __version__
from sae_cli.cli import (
    bench,
    browse,
    compare,
    gc,
    importing,
    inspect,
    look,
    monitor,
    plan,
    report,
    results,
    schema,
    stages,
    status,
    verify,
)
from sae_cli.errors import FAILED, INTERRUPTED, OK, USAGE, Interrupted, SaectlError
from sae_cli.run.world import leave, together
from sae_cli.spec.work import Kind

app = typer.Typer(
    name="saectl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Suites of sparse autoencoders on language models: text → activations → SAEs → metrics → "
    "release, from one YAML sweep, in stages that can be killed and go on.",
)

# Typer carries its own copy of click in some releases: take the class from what it exports.
_UsageProblem: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
STAGES, LOOK, KEEP = "Stages", "Before and after", "Workspace"
INSIDE = "Look inside"
_VERBS: tuple[tuple[str, Kind | None, str], ...] = (
    ("run", None, "All stages of a sweep, in order, only what is missing."),
    ("cache", "cache", "Text to stored activations; every site of a model in one forward."),
    ("train", "train", "Stored activations to SAEs. What is missing before them is done first."),
    ("eval", "eval", "SAEs to metrics, on held-out text. What is missing before is done first."),
    ("release", "release", "A sweep's SAEs to a folder that SAELens loads, with a model card."),
)
for _name, _kind, _summary in _VERBS:
    app.command(_name, rich_help_panel=STAGES)(stages.verb(_name, _kind, _summary))
app.command("steer", rich_help_panel=STAGES)(
    stages.verb("steer", "study", "Refusal by a few features of each SAE of a sweep.", "steering")
)
app.command("import", rich_help_panel=STAGES)(importing.importing)
app.command(rich_help_panel=LOOK)(plan.validate)
app.command(rich_help_panel=LOOK)(plan.plan)
app.command(rich_help_panel=LOOK)(status.status)
app.command(rich_help_panel=LOOK)(bench.bench)
app.command(rich_help_panel=LOOK)(results.results)
app.command(rich_help_panel=LOOK)(compare.compare)
app.command(rich_help_panel=LOOK)(report.report)
app.command(rich_help_panel=INSIDE)(browse.browse)
app.command(rich_help_panel=INSIDE)(inspect.inspect)
app.command(rich_help_panel=INSIDE)(monitor.monitor)
app.command("ls", rich_help_panel=KEEP)(look.ls)
app.command(rich_help_panel=KEEP)(look.show)
app.command(rich_help_panel=KEEP)(verify.verify)
app.command(rich_help_panel=KEEP)(gc.gc)
app.command(rich_help_panel=KEEP)(schema.schema)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"saectl {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Options before the verb."""


def main() -> None:
    """Entry point: run the command line and exit with a code of `sae_cli.errors`."""
    leave(together(lambda: _run(sys.argv[1:])))


def _run(arguments: list[str]) -> int:
    verbose = any(a in ("-v", "--verbose") for a in arguments)
    try:
        code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SaectlError as e:
        if verbose:
            traceback.print_exc()
        print(e if isinstance(e, Interrupted) else f"error: {e}", file=sys.stderr)
        return e.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has seen enough
        return OK
    except OSError as e:
        if verbose:
            traceback.print_exc()
        where = f"{e.filename}: " if e.filename else ""
        print(f"error: {where}{e.strerror or e}", file=sys.stderr)
        return FAILED
    except _UsageProblem as e:
        e.show()
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
