"""The arguments and flags that verbs share, said once. No flag repeats a field of the spec."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Where(StrEnum):
    """The executors."""

    LOCAL = "local"
    SLURM = "slurm"
    RAY = "ray"


SpecFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="SPEC",
        show_default=False,
        help="A sweep file, or the name of one that ships (sweeps/tiny.yaml).",
    ),
]
Store = Annotated[
    Path,
    typer.Option(
        "--store",
        envvar="SAECTL_STORE",
        metavar="DIR",
        help="The workspace.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        show_default=False,
        help="Read this model instead: a preset, a hub id, or a local folder. "
        "Without SPEC: the sweep that ships for it.",
    ),
]
ModelFolder = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PATH",
        show_default=False,
        help="The folder that holds the SAE's model, where its record can't say.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=V",
        show_default=False,
        help="Set a field of the spec; repeatable.",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="GLOB",
        show_default=False,
        help="Only stages whose kind, name or key match; repeatable.",
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Do the chosen stages again.")]
ForceDownstream = Annotated[
    bool,
    typer.Option("--force-downstream", help="Do them and all that depends on them again."),
]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", "-k", help="After a failure, go on with what can go on.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Only show the plan.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        metavar="N",
        show_default=False,
        help="Jobs beside each other on this machine, as processes of their own. "
        "Default: one for each GPU, else one.",
    ),
]
Executor = Annotated[
    Where,
    typer.Option("--executor", help="Where jobs run: on this machine, or on a cluster."),
]
Worker = Annotated[
    bool,
    typer.Option(
        "--worker",
        hidden=True,
        help="Started by an executor: do what --only names, record no sweep, free nothing.",
    ),
]
RenderOnly = Annotated[
    bool,
    typer.Option("--render-only", help="With --executor slurm: write its scripts, submit nothing."),
]
Push = Annotated[
    str | None,
    typer.Option(
        "--push",
        metavar="ORG/NAME",
        show_default=False,
        help="Then push the release to this repository of the Hugging Face hub, made private.",
    ),
]
Public = Annotated[
    bool, typer.Option("--public", help="With --push: everybody may see the repository.")
]
All = Annotated[bool, typer.Option("--all", help="Every sweep of the workspace.")]
Yes = Annotated[bool, typer.Option("--yes", help="Go on where saectl would ask or refuse.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable, versioned output.")]
SaeBench = Annotated[
    Path | None,
    typer.Option(
        "--saebench",
        metavar="DIR",
        show_default=False,
        help="Write the numbers there too, a file per SAE in the form of SAEBench's core results.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and debug notes.")]
DEFAULT_STORE = Path("store")
