"""Pins imported SAEs to the digest of their files, in the cells and in what the sweep says of them.

A recorded sweep must open when the files are gone: once they were read, nothing needs them. So each
place of a sweep that names a folder (`train`, an entry of `matrix.sae` or of `include`) gets the
digest beside it; one for each layer where a folder has those of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_cli.spec.cell import Cell
from sae_cli.spec.imported import ImportedSae
from sae_cli.spec.models import local
from sae_cli.spec.sweep import SweepSpec
from sae_cli.store.formats.files import BY_LAYER, sae_digest


def pinned(cell: Cell) -> Cell:
    """A cell whose imported SAE has its digest. One that is stated is checked where the files are
    read: they may be gone once they were."""
    sae = cell.train
    if not isinstance(sae, ImportedSae):
        return cell
    path, layer = local(sae.path).absolute(), sae.layer(cell.layer)
    found = sae.digest or sae_digest(sae.format, path, layer)
    return replace(cell, train=sae.model_copy(update={"path": str(path), "digest": found}))


def places(spec: SweepSpec, cells: Sequence[Cell]) -> dict[str, Any]:
    """What a sweep says of imported SAEs, with folders that don't hang on where saectl runs, and
    the digests of its pinned `cells`, of which those of `include` are the last."""
    if not any(isinstance(cell.train, ImportedSae) for cell in cells):
        return {}
    matrix = spec.matrix
    included = [
        {n: getattr(cell.train, n) for n in ("path", "digest")} if given.path is not None else {}
        for given, cell in zip(
            matrix.include, cells[len(cells) - len(matrix.include) :], strict=True
        )
    ]
    update: dict[str, Any] = {
        "include": tuple(
            given.model_copy(update=pins)
            for given, pins in zip(matrix.include, included, strict=True)
        )
    }
    if matrix.sae is not None:
        update["sae"] = tuple(_with_digests(fragment, cells) for fragment in matrix.sae)
    if matrix.exclude:
        update["exclude"] = tuple(_absolute(fragment) for fragment in matrix.exclude)
    return {
        "matrix": matrix.model_copy(update=update),
        "train": _with_digests(spec.train, cells),
    }


def _absolute(fragment: Any) -> Any:
    """Fields of a training spec, with the folder that they name by its whole path."""
    if fragment.path is None:
        return fragment
    return fragment.model_copy(update={"path": str(local(fragment.path).absolute())})


def _with_digests(fragment: Any, cells: Sequence[Cell]) -> Any:
    """Such fields with the digests of what the cells read in their folder. A layer of which the
    cells read several (in several formats) stays as it is."""
    whole = _absolute(fragment)
    if whole.path is None or isinstance(whole.digest, str):
        return whole
    found: dict[str, set[str]] = {}
    by_layer = False
    for cell in cells:
        sae = cell.train
        if not isinstance(sae, ImportedSae) or Path(sae.path) != Path(whole.path):
            continue
        if whole.format in (None, sae.format):
            found.setdefault(str(sae.layer(cell.layer)), set()).add(str(sae.digest))
            by_layer |= sae.format in BY_LAYER
    sure = {layer: digests.pop() for layer, digests in found.items() if len(digests) == 1}
    if not sure:
        return whole
    one = len(set(sure.values())) == 1 and not by_layer
    digest: Any = next(iter(sure.values())) if one else sure
    return whole.model_copy(update={"digest": digest})
