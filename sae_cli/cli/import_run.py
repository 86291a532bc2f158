"""What `saectl import` does: looks into the folder, writes the sweep, and tells what it found.

Apart from the verb, which loads this when it is asked for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from sae_cli.cli import render
from sae_cli.cli.import_cells import Placed, name, placed
from sae_cli.cli.import_model import Given, Target, target
from sae_cli.cli.import_sweep import text, write
from sae_cli.errors import UsageError
from sae_cli.spec.base import Frozen
from sae_cli.spec.problems import closest
from sae_cli.spec.stages import ReleaseFormat, Site
from sae_cli.store.formats.found import Found, search, strangers
from sae_cli.store.formats.said import hub_of

FORMATS: tuple[str, ...] = get_args(ReleaseFormat)
_HUB_ID = re.compile(r"(?:hf://)?([\w.-]+/[\w.-]+)")
_SHOWN = 8
"""Files or SAEs that an error lists."""


class ImportLine(Frozen):
    """An SAE that was found, and the cell that it is."""

    name: str
    format: str
    folder: str
    model: str
    layer: int
    site: str
    out_site: str | None
    function: str
    width: int
    k: int | None
    d_in: int
    d_out: int
    label: str | None
    source: str | None
    digest: str


class LeftOut(Frozen):
    """An SAE that was found and can't be imported."""

    name: str
    format: str
    why: str


class ImportOutput(Frozen):
    """`saectl import --json`."""

    version: Literal[1] = 1
    sweep: str
    file: str
    written: bool
    """False where that very file was there already."""
    saes: tuple[ImportLine, ...]
    left_out: tuple[LeftOut, ...]


def run(
    folder: str,
    formats: Sequence[str],
    *,
    model: str | None,
    layer: int | None,
    site: str | None,
    out_site: str | None,
    source: str | None,
    called: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write the sweep of the SAEs in `folder`. Raises UsageError for what is missing, unclear or
    contradicts itself."""
    root = _folder(folder)
    given = Given(model, layer, _site("--site", site), _site("--out-site", out_site), source)
    found, lost = _wanted(root, formats)
    whose = target(found, given)
    cells = placed(found, root, whose, given, lambda n: _told(n, len(found)))
    sweep = called or _name(root)
    path = out or Path("sweeps") / f"{sweep}.yaml"
    _refuse_name(sweep)
    written = write(path, text(sweep, whose, cells, root))
    if whose.note is not None:
        print(whose.note, file=sys.stderr)
    if as_json:
        said = ImportOutput(
            sweep=sweep,
            file=str(path),
            written=written,
            saes=tuple(_line(c, whose) for c in cells),
            left_out=tuple(
                LeftOut(name=name(f, root), format=f.format, why=str(f.trouble)) for f in lost
            ),
        )
        print(said.model_dump_json(indent=2))
    else:
        _show(cells, lost, root, whose, path, written)


def _folder(text_: str) -> Path:
    root = Path(text_).expanduser()
    if root.is_dir():
        return root
    if root.exists():
        raise UsageError(f"{text_} is a file: give the folder that it stands in")
    hub = _HUB_ID.fullmatch(text_)
    if hub is None or text_.startswith((".", "/", "~")):
        raise UsageError(f"there is no folder {text_}")
    local = hub[1].rpartition("/")[2]
    raise UsageError(
        f"there is no folder {text_}; if it is on the hub, it must be downloaded first",
        hint=f"hf download {hub[1]} --local-dir {local}\n  saectl import {local} --source {hub[1]}",
    )


def _site(option: str, given: str | None) -> Site | None:
    sites: tuple[Site, ...] = get_args(Site)
    for known in sites:
        if given == known:
            return known
    if given is None:
        return None
    raise UsageError(f"{option} {given}: there are {', '.join(sites)}")


def _wanted(root: Path, formats: Sequence[str]) -> tuple[list[Found], list[Found]]:
    """The SAEs of the wanted formats, and those that can't be imported. Raises UsageError when
    there is none, or when it is not clear which are meant."""
    for wrong in (f for f in formats if f not in FORMATS):
        guess = closest(wrong, FORMATS)
        raise UsageError(
            f"--format {wrong}: there are {', '.join(FORMATS)}"
            + (f"  did you mean '{guess}'?" if guess else "")
        )
    every = search(root)
    there = {f: [e for e in every if e.format == f] for f in dict.fromkeys(e.format for e in every)}
    counts = ", ".join(f"{len(saes)} of {form}" for form, saes in there.items())
    if not every:
        files = strangers(root)
        listed = ", ".join(str(f) for f in files[:_SHOWN]) + (
            ", ..." if len(files) > _SHOWN else ""
        )
        raise UsageError(
            f"{root} holds no SAEs of a format that is known here ({', '.join(FORMATS)})",
            hint=f"files of weights that are none of theirs: {listed}" if files else None,
        )
    if not formats and len(there) > 1:
        raise UsageError(
            f"{root} holds SAEs of several formats: {counts}",
            hint="--format NAME says which are meant (of a saectl release, all are the same SAEs)",
        )
    some = [e for e in every if not formats or e.format in formats]
    if not some:
        raise UsageError(f"{root} holds no SAEs of {', '.join(formats)}, but {counts}")
    good, lost = [e for e in some if not e.trouble], [e for e in some if e.trouble]
    if not good:
        raise UsageError(
            "\n  ".join(f"{name(e, root)} can't be imported: {e.trouble}" for e in lost[:_SHOWN])
        )
    return good, lost


def _name(root: Path) -> str:
    said = (hub_of(root) or root.resolve().name).rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9._-]+", "-", said).strip("._-")[:64] or "imported"


def _refuse_name(sweep: str) -> None:
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", sweep) is None:
        raise UsageError(
            f"--name {sweep}: up to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first"
        )


def _told(n: int, total: int) -> None:
    """How far the hashing is, where somebody watches."""
    if sys.stderr.isatty() and total > 1:
        end = "\n" if n == total else ""
        print(f"\rreading {n} of {total}", end=end, file=sys.stderr, flush=True)


def _line(c: Placed, whose: Target) -> ImportLine:
    f = c.found
    return ImportLine(
        name=c.where, format=f.format, folder=str(f.folder.absolute()), model=whose.name,
        layer=c.layer, site=c.site, out_site=c.out_site, function=f.function, width=f.width,
        k=f.k, d_in=f.d_in, d_out=f.d_out, label=c.label, source=c.source, digest=c.digest,
    )  # fmt: skip


def _show(
    cells: Sequence[Placed],
    lost: Sequence[Found],
    root: Path,
    whose: Target,
    path: Path,
    written: bool,
) -> None:
    render.table(
        ["SAE", "format", "layer", "site", "function", "latents", "k", "dims"],
        [
            (
                c.where,
                c.found.format,
                c.layer,
                f"{c.site} to {c.out_site}" if c.out_site else c.site,
                c.found.function + (" + skip" if c.found.skip else ""),
                c.found.width,
                "" if c.found.k is None else c.found.k,
                c.found.d_in
                if c.found.d_in == c.found.d_out
                else f"{c.found.d_in} to {c.found.d_out}",
            )
            for c in cells
        ],
        right=["layer", "latents", "k", "dims"],
    )
    for each in lost:
        print(f"left out: {name(each, root)} ({each.format}): {each.trouble}")
    if whose.facts is None:
        print(
            f"the sizes of {whose.name} are not known on this machine: whether they fit is seen "
            "when the SAEs are read"
        )
    many = f"{len(cells)} SAE{'s' * (len(cells) != 1)}"
    print(f"{many} of {whose.name}: {path}" + ("" if written else " (it was there already)"))
    print(f"next: saectl eval {path}")
