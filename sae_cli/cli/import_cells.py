"""From what was found in a folder to the cells of a sweep: each SAE with its model, layer and site.

What files say is taken; what they leave out the command line gives; a contradiction, a layer that
the model has not and a size that is another site's are errors that name both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sae_cli.cli.import_model import Given, Target
from sae_cli.errors import UsageError
from sae_cli.spec.stages import FORWARD, Site
from sae_cli.store.formats.files import sae_digest
from sae_cli.store.formats.found import Found
from sae_cli.store.formats.said import hub_of
from sae_cli.store.key import slug

MOST = 5
"""SAEs that an error lists."""


@dataclass(frozen=True)
class Placed:
    """An SAE with its place: a cell of a sweep."""

    found: Found
    where: str
    """Its folder within the one that was given."""
    layer: int
    site: Site
    out_site: Site | None
    digest: str
    source: str | None
    label: str | None = None


def placed(
    found: Sequence[Found], root: Path, model: Target, given: Given, hashed: Callable[[int], None]
) -> list[Placed]:
    """Each SAE at its place, in the order of layers. `hashed(n)` is called after each digest.

    Raises UsageError where a place is not known, or is none of the model's.
    """
    cells: list[Placed] = []
    spots = [_spot(each, root, given) for each in found]
    _refuse_unknown([(name(each, root), *spot) for each, spot in zip(found, spots, strict=True)])
    for each, (layer, site, out_site) in zip(found, spots, strict=True):
        assert layer is not None and site is not None
        _check(each, root, model, layer, site, out_site)
        file_layer = layer if each.file_layer is None else each.file_layer
        digest = sae_digest(each.format, each.folder, file_layer)
        hashed(len(cells) + 1)
        source = given.source or hub_of(each.folder)
        cells.append(Placed(each, name(each, root), layer, site, out_site, digest, source))
    cells.sort(key=lambda c: (c.layer, FORWARD.index(c.site), c.found.width))
    return _labelled(cells)


def name(found: Found, root: Path) -> str:
    """What an SAE is called in tables and errors: its folder in `root`, and its layer there."""
    within = found.folder.relative_to(root).as_posix()
    folder = root.resolve().name if within == "." else within
    return folder if found.file_layer is None else f"{folder} layer {found.file_layer}"


def _spot(found: Found, root: Path, given: Given) -> tuple[int | None, Site | None, Site | None]:
    said = found.said
    for option, asked, has in (
        ("layer", given.layer, said.layer),
        ("site", given.site, said.site),
        ("out-site", given.out_site, said.out_site),
    ):
        if asked is not None and has is not None and asked != has:
            raise UsageError(
                f"{name(found, root)} says {option} {has}, and --{option} says {asked}",
                hint=f"leave --{option} out, or give the folder of the SAEs that it is true of",
            )
    layer = given.layer if said.layer is None else said.layer
    out_site = (said.out_site or given.out_site) if found.transcodes else None
    return layer, said.site or given.site, out_site


def _refuse_unknown(
    spots: Sequence[tuple[str, int | None, Site | None, Site | None]],
) -> None:
    for option, at, example in (("layer", 1, "N"), ("site", 2, "resid_post")):
        silent = [spot[0] for spot in spots if spot[at] is None]
        if silent:
            more = f" and {len(silent) - MOST} more" if len(silent) > MOST else ""
            raise UsageError(
                f"nothing says of which {option} these are: {', '.join(silent[:MOST])}{more}",
                hint=f"--{option} {example} says it"
                + (f" (one of {', '.join(FORWARD)})" if option == "site" else "")
                + ("; give one layer's folder at a time" if len(silent) > 1 else ""),
            )


def _check(
    found: Found, root: Path, model: Target, layer: int, site: Site, out_site: Site | None
) -> None:
    """Raises UsageError where the model has no such place."""
    who, facts = name(found, root), model.facts
    if found.transcodes and out_site is None:
        raise UsageError(
            f"{who} is a transcoder, and nothing says which site it predicts",
            hint="--out-site mlp_out says it",
        )
    if out_site is not None and FORWARD.index(out_site) <= FORWARD.index(site):
        raise UsageError(
            f"{who}: {out_site} does not lie behind {site} (a layer goes {', '.join(FORWARD)})"
        )
    if facts is None:
        return
    if layer >= facts.n_layers:
        raise UsageError(
            f"{who} is of layer {layer}, and {model.name} has layers 0 to {facts.n_layers - 1}",
            hint="--model NAME says of which model it is",
        )
    for size, at, does in ((found.d_in, site, "reads"), (found.d_out, out_site or site, "gives")):
        if size != facts.d_in(at):
            raise UsageError(
                f"{who} {does} {size} dimensions, and {at} of {model.name} has {facts.d_in(at)}",
                hint="--model and --site say of which model and site it is",
            )


def _labelled(cells: Sequence[Placed]) -> list[Placed]:
    """Those that share place, format, function and sizes, with what tells their folders apart."""
    groups: dict[tuple[object, ...], list[Placed]] = {}
    for c in cells:
        f = c.found
        same = (c.layer, c.site, c.out_site, f.format, f.function, f.width, f.k, f.skip)
        groups.setdefault(same, []).append(c)
    labels: dict[str, str] = {}
    for group in groups.values():
        if len(group) > 1:
            last = [c.where.rpartition("/")[2] for c in group]
            names = last if len(set(last)) == len(last) else [c.where for c in group]
            labels |= {c.where: _label(n) for c, n in zip(group, names, strict=True)}
    return [replace(c, label=labels.get(c.where)) for c in cells]


def _label(text: str) -> str:
    return slug(re.sub(r"[^A-Za-z0-9._-]+", "-", text)[-48:])
