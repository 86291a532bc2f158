"""`saectl import`: SAEs that other projects trained, from a folder to a sweep of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from sae_cli.cli import options as o
from sae_cli.errors import OK
from sae_cli.spec.stages import ReleaseFormat

FORMATS: tuple[str, ...] = get_args(ReleaseFormat)


def importing(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A local folder that holds SAEs, at any depth.")
    ],
    format_: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            show_default=False,
            help=f"Only SAEs of this format: {', '.join(FORMATS)}; repeatable.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            show_default=False,
            help="The model that they are judged on: a preset, a hub id, or a local folder. "
            "Default: the one that the files name.",
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option("--layer", min=0, show_default=False, help="Layer, where no file says it."),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option("--site", show_default=False, help="Site, where no file says it."),
    ] = None,
    out_site: Annotated[
        str | None,
        typer.Option(
            "--out-site",
            show_default=False,
            help="Site that a transcoder predicts, where no file says it.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="TEXT",
            show_default=False,
            help="Where the files come from, for records and cards; a hub cache says it itself.",
        ),
    ] = None,
    called: Annotated[
        str | None,
        typer.Option(
            "--name", show_default=False, help="Name of the sweep. Default: the folder's."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", show_default=False, help="Default: sweeps/NAME.yaml."
        ),
    ] = None,
    json: o.Json = False,
    verbose: o.Verbose = False,
) -> int:
    """Write a sweep of the SAEs in a folder, whoever trained them; no weights are read yet."""
    from sae_cli.cli.import_run import run  # what other verbs need not load

    run(
        folder, format_ or (), model=model, layer=layer, site=site, out_site=out_site,
        source=source, called=called, out=out, as_json=json,
    )  # fmt: skip
    return OK
