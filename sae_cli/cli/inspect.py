"""`saectl inspect`: which features are active in a text, token by token, and what they do to the
next token."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.named import Named, named_sae
from sae_cli.cli.plainly import plainly
from sae_cli.errors import OK, UsageError
from sae_cli.store.layout import Workspace

if TYPE_CHECKING:  # its models take long to build
    from sae_cli.cli.watched import InspectOutput, NextLine
    from sae_cli.studies.watch.by_token import NextToken, Watched
    from sae_cli.studies.watch.live import Live, Reader

Sae = Annotated[
    str,
    typer.Argument(
        metavar="SAE",
        show_default=False,
        help="The name or key of an SAE of the workspace, or the folder of one.",
    ),
]

NO_LIMIT = (
    "tokens of extreme norm were left out in training; from what norm on is not known here, so "
    "none is left out"
)


def inspect(
    sae: Sae,
    text: Annotated[
        str | None, typer.Option("--text", show_default=False, help="The text to look at.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="FILE",
            show_default=False,
            help="Its file instead (-: stdin). A line break at its end is left away.",
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="As a user's message in the model's chat template."),
    ] = False,
    top: Annotated[
        int,
        typer.Option("--top", min=1, metavar="N", help="Features and next tokens that are shown."),
    ] = 5,
    position: Annotated[
        int,
        typer.Option(
            "--position",
            metavar="P",
            help="Token whose next one is looked at, from 0; from the end below 0.",
        ),
    ] = -1,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="WORD",
            show_default=False,
            help="Contributions to this next token, not to the most likely one.",
        ),
    ] = None,
    store: o.Store = o.DEFAULT_STORE,
    model: o.ModelFolder = None,
    json: o.Json = False,
    verbose: o.Verbose = False,
) -> int:
    """Which features are active in a text, token by token, and what they do to the next token."""
    given = _text(text, file)
    named = named_sae(sae, Workspace(store), model)

    from sae_cli.studies.watch.by_token import watch

    live = opened(named)
    if chat:
        given = live.reader.chat([{"role": "user", "content": given}])
    watched = watch(live, given, top=top, position=position, word=token)
    found = _output(named, live, watched)
    if json:
        print(jsonlib.dumps(found.model_dump(mode="json"), indent=2))
    else:
        _print(found, top)
    return OK


def opened(named: Named, reader: Reader | None = None) -> Live:
    """The SAE, and its model (unless there is one already), loaded."""
    from sae_cli.studies.watch.live import Live, Reader

    return Live(reader or Reader(named.model), named.folder, named.own, named.limit)


def notes(named: Named, live: Live) -> list[str]:
    """What has to be known to read the numbers."""
    found = [NO_LIMIT] if named.limit_unknown else []
    if live.transcodes:
        found.append(
            f"a transcoder: it reads {live.tap.site}, and contributions are of what it writes to "
            f"{live.written.site}"
        )
    return found


def _text(text: str | None, file: Path | None) -> str:
    if (text is None) == (file is None):
        raise UsageError("give a text: --text '...', or --file FILE (one of them)")
    if file is None:
        assert text is not None
        return text
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text") from error
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from error


def _output(named: Named, live: Live, found: Watched) -> InspectOutput:
    from sae_cli.cli import watched as w

    some = found.contributions
    spec = named.model
    return w.InspectOutput(
        sae=named.name,
        model=str(spec.hf or spec.builtin or spec.path),
        layer=live.tap.layer,
        site=live.tap.site,
        out_site=live.written.site if live.transcodes else None,
        tokens=tuple(
            w.TokenLine(
                position=t.position,
                id=t.id,
                text=t.text,
                counts=not t.why_not,
                why_not=t.why_not,
                active=t.active,
                features=tuple(w.FeatureLine(feature=f, activation=v) for f, v in t.features),
            )
            for t in found.tokens
        ),
        position=found.position,
        next=tuple(map(_next, found.next)),
        target=_next(found.target),
        resolution=None if some is None else some.resolution,
        active=None if some is None else some.active,
        tried=None if some is None else len(some.found),
        contributions=None
        if some is None
        else tuple(
            w.ContributionLine(
                feature=c.feature,
                activation=c.activation,
                contribution_v1=c.contribution,
                gradient_v1=c.gradient,
            )
            for c in some.found
        ),
        why_no_contributions=found.why_none,
        notes=tuple(notes(named, live)),
    )


def _next(token: NextToken) -> NextLine:
    from sae_cli.cli.watched import NextLine

    return NextLine(id=token.id, text=token.text, probability=token.probability, logit=token.logit)


def _print(found: InspectOutput, top: int) -> None:
    place = f"layer {found.layer} {found.site}" + (f" to {found.out_site}" * bool(found.out_site))
    print(f"{found.sae}: {place} of {found.model}")
    rows = []
    for t in found.tokens:
        strongest = "  ".join(f"{each.feature}:{each.activation:.4g}" for each in t.features)
        where = "front" if t.position < 0 else str(t.position)
        why = f"does not count: {', '.join(t.why_not)}"
        rows.append((where, plainly(t.text), t.active if t.counts else "-", strongest or why))
        if t.counts and not t.features:
            rows[-1] = (*rows[-1][:3], "none active")
    render.table(["position", "token", "active", "strongest"], rows, right=["position", "active"])
    here = found.tokens[found.position + 1]
    likely = ", ".join(f"'{plainly(n.text)}' {_percent(n.probability)}" for n in found.next)
    print(f"\nbehind {found.position} '{plainly(here.text)}' comes: {likely}")
    target = f"'{plainly(found.target.text)}' ({_percent(found.target.probability)})"
    if not found.contributions:
        print(f"contributions to {target}: none, {found.why_no_contributions}")
    else:
        shown = found.contributions[:top]
        print(
            f"contributions to the logit {found.target.logit:.4f} of {target}, the largest "
            f"{len(shown)} of {found.active} active features"
        )
        render.table(
            ["feature", "activation", "contribution", "by gradient"],
            [
                (
                    c.feature,
                    f"{c.activation:.4g}",
                    f"{c.contribution_v1:+.4f}",
                    f"{c.gradient_v1:+.4f}",
                )
                for c in shown
            ],
            right=["feature", "activation", "contribution", "by gradient"],
        )
        if found.tried != found.active:
            print(f"{found.tried} of {found.active} were tried, the largest by gradient")
        if found.resolution is not None and found.resolution > 0.01:
            print(f"logits of this model's number format come in steps of {found.resolution:g}")
    for note in found.notes:
        print(f"note: {note}")


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else f"{100 * share:.1g}%"
