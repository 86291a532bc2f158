"""What files and names of folders say of where an SAE reads. No torch: `saectl import` asks this.

Our own record comes first, then the project's own words, then the names of folders, which some
projects leave everything to: `layers.5.mlp` of sparsify, `gemma-scope-2b-pt-res/layer_12/...`,
`SAE-Res-Qwen3-1.7B-Base-W32K-L0_50`. What nobody says stays unsaid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sae_cli.spec.hooks import input_of, spot_of
from sae_cli.spec.stages import Site

_HUB = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
_GEMMA = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att)\b.*")
_GEMMA_SITES: dict[str, Site] = {"res": "resid_post", "mlp": "mlp_out", "att": "attn_z"}
_QWEN = re.compile(r"SAE-Res-(.+?)-W\d+K(?:-L0_\d+)?")
_LAYER = re.compile(r"layer_(\d+)")
_K = re.compile(r"[-_]L0_(\d+)")


@dataclass(frozen=True)
class Said:
    """Where an SAE reads, and what it predicts; None: not said."""

    model: str | None = None
    layer: int | None = None
    site: Site | None = None
    out_site: Site | None = None
    context: int | None = None
    """Tokens of the contexts that it was trained on."""
    control: Mapping[str, Any] | None = None
    """The model by our own record, where that is one whose weights were drawn anew."""

    def filled(self, other: Said) -> Said:
        """With what `other` says where this says nothing."""
        mine = {n: getattr(self, n) for n in self.__dataclass_fields__}
        return replace(other, **{n: v for n, v in mine.items() if v is not None})


def by_metadata(metadata: Mapping[str, Any]) -> Said:
    """What metadata in SAELens's words say, with saectl's own record in them where it is there."""
    record = metadata.get("saectl") or {}
    read = spot_of(str(metadata.get("hook_name"))) or (None, None)
    out = spot_of(str(metadata.get("hook_name_out"))) or (None, None)
    layer = record.get("layer", read[0])
    recorded = record.get("model")
    anew = isinstance(recorded, dict) and isinstance(recorded.get("reinit"), int)
    return Said(
        model=_text(metadata.get("model_name")),
        layer=metadata.get("hook_layer", metadata.get("layer")) if layer is None else layer,
        site=record.get("site", read[1]),
        out_site=record.get("out_site", out[1]),
        context=_number(metadata.get("context_size")),
        control=recorded if anew else None,
    )


def by_module(name: object, *, transcodes: bool = False, model: object = None) -> Said:
    """What the name of a hook, a module or a submodule says; a transcoder predicts what the module
    gives, and reads what goes into it."""
    text = str(name)
    out = spot_of(text)
    found = input_of(text) if transcodes else out
    layer, site = found or (out[0] if out else None, None)
    return Said(
        model=_text(model),
        layer=layer,
        site=site,
        out_site=out[1] if transcodes and found is not None and out is not None else None,
    )


def by_folders(folder: Path) -> Said:
    """What the names of a folder and of those around it say."""
    said = Said()
    for part in reversed(folder.absolute().parts):
        said = said.filled(_by_name(part))
    return said


def k_by_folders(folder: Path) -> int | None:
    """Active latents by the name of a folder or of one of the two around it: a hub's cache has the
    name of the repository above its revisions."""
    for part in reversed(folder.resolve().parts[-3:]):
        if found := _K.search(part):
            return int(found[1])
    return None


def hub_of(folder: Path) -> str | None:
    """The hub id of the repository that a folder in the hub's cache belongs to."""
    found = [m for part in folder.absolute().parts if (m := _HUB.fullmatch(part))]
    return f"{found[-1][1]}/{found[-1][2]}" if found else None


def _by_name(part: str) -> Said:
    name = part.rpartition("--")[2]
    if found := _GEMMA.fullmatch(name):
        tuned = "-it" if found[2] == "it" else ""
        return Said(model=f"google/gemma-2-{found[1]}{tuned}", site=_GEMMA_SITES[found[3]])
    if found := _QWEN.fullmatch(name):
        return Said(model=f"Qwen/{found[1]}", site="resid_post")
    if found := _LAYER.fullmatch(name):
        return Said(layer=int(found[1]))
    return Said()


def _text(value: object) -> str | None:
    return str(value) if value else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and value > 1 else None
