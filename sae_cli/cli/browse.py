"""`saectl browse`: what each feature does, as a site that opens from disk; live with `--serve`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TextIO

import typer

from sae_cli.cli import options as o
from sae_cli.cli.named import Named, named_saes
from sae_cli.cli.progress import reporter
from sae_cli.errors import OK
from sae_cli.spec.base import Frozen
from sae_cli.store.layout import Workspace
from sae_cli.store.records.space import told


class BrowsedSae(Frozen):
    """One SAE of a site."""

    name: str
    folder: str
    """In the site."""
    features: int
    dead: int
    """Features that fire on no token of the text."""
    tokens: int
    """Tokens that count."""
    notes: int
    """Features that a study says something of."""
    text: str


class BrowseOutput(Frozen):
    """`saectl browse --json`."""

    version: Literal[1] = 1
    site: str
    bytes: int
    saes: tuple[BrowsedSae, ...]
    neuronpedia: str | None
    """The folder of the export, if one was asked for."""


def browse(
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="WHERE",
            show_default=False,
            help="An SAE's name, key or folder, or the folder of a release or a workspace. "
            "Default: all SAEs of the workspace.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder of the site.")
    ] = Path("browser"),
    tokens: Annotated[
        int,
        typer.Option("--tokens", min=1, metavar="N", help="How much text features are watched on."),
    ] = 1_000_000,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            show_default=False,
            help="Watch them on this .jsonl (field `text`) or .txt instead of their training text.",
        ),
    ] = None,
    model: o.ModelFolder = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Then serve it on 127.0.0.1, with the model to ask.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Where; 0 takes a free one.")
    ] = 8765,
    neuronpedia: Annotated[
        Path | None,
        typer.Option(
            "--neuronpedia",
            metavar="DIR",
            show_default=False,
            help="Write the files that Neuronpedia imports there, too.",
        ),
    ] = None,
    store: o.Store = o.DEFAULT_STORE,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Every feature with its examples, as pages that open from disk, without network or server."""
    from sae_cli.cli.browsing import Built, Wish, build, built_before

    workspace = (
        Workspace(Path(where)) if where and Path(where, "runs").is_dir() else Workspace(store)
    )
    wish = Wish(named_saes(where, workspace, model), out, tokens, text, workspace, neuronpedia)
    progress = reporter(quiet=quiet or json)
    built: Built | None = built_before(wish) if serve and neuronpedia is None else None
    if built is None:
        try:
            built = build(wish, progress)
        finally:
            progress.close()
    if json:
        export = None if neuronpedia is None else str(neuronpedia / "exports")
        saes = tuple(BrowsedSae.model_validate(each) for each in built.saes)
        said = BrowseOutput(site=str(out), bytes=built.bytes, saes=saes, neuronpedia=export)
        print(said.model_dump_json(indent=2), flush=True)
    else:
        n = len(built.folders)
        print(f"site: {out / 'index.html'}  {n} SAE{'s' * (n != 1)}, {told(built.bytes)}")
        if neuronpedia is not None:
            print(f"for Neuronpedia: {built.exported} files in {neuronpedia / 'exports'}")
    if serve:
        _serve(out, port, built.folders, sys.stderr if json else sys.stdout)
    return OK


def _serve(out: Path, port: int, folders: Mapping[str, Named], to: TextIO) -> None:
    """Until Ctrl-C."""
    from sae_cli.cli.browsing import trials
    from sae_cli.run.serving import SiteServer

    answer = trials(folders)
    with SiteServer(out, port, ("read", "steer"), answer) as server:
        print(f"serving {server.url}  (Ctrl-C ends it)", file=to, flush=True)
        server.serve_forever(poll_interval=0.2)
