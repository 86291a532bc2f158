"""By which names others say where an SAE reads: a layer and a site from them, or nothing.

TransformerLens's hooks, module paths of Hugging Face models, and dictionary_learning's submodules.
A name that could mean two sites, or one that is none of ours, is not guessed at:
`ln2.hook_normalized` is taken before the norm's gain, so it is not `mlp_in`.
"""

from __future__ import annotations

import re

from sae_cli.spec.stages import Site

Spot = tuple[int, Site]

HOOKS: dict[str, Site] = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "attn.hook_z": "attn_z",
    "mlp.hook_in": "mlp_in",
    "mlp.hook_out": "mlp_out",
    "hook_mlp_out": "mlp_out",
}
"""TransformerLens's, and circuit-tracer's, behind `blocks.N.`."""
_PARTS: dict[str, Site] = {
    "": "resid_post",
    "mlp": "mlp_out",
    "attn": "attn_out",
    "self_attn": "attn_out",
    "attention": "attn_out",
}
"""Modules of a layer, by what they give."""
_HOOK = re.compile(r"blocks\.(\d+)\.(.+)")
_MODULE = re.compile(r"(?:[a-z_]+\.)*(?:layers|h|blocks)\.(\d+)(?:\.([a-z_]+))?")
_SUBMODULE = re.compile(r"(resid|mlp|attn|attention)(?:_post|_out)?_layer_(\d+)")


def spot_of(name: str) -> Spot | None:
    """The layer and site that `name` means; None for one that is not known here.

    >>> spot_of("blocks.3.hook_resid_post"), spot_of("model.layers.3.mlp"), spot_of("layers.3")
    ((3, 'resid_post'), (3, 'mlp_out'), (3, 'resid_post'))
    """
    if (found := _HOOK.fullmatch(name)) and found[2] in HOOKS:
        return int(found[1]), HOOKS[found[2]]
    if (found := _MODULE.fullmatch(name)) and (found[2] or "") in _PARTS:
        return int(found[1]), _PARTS[found[2] or ""]
    if found := _SUBMODULE.fullmatch(name):
        return int(found[2]), _PARTS["" if found[1] == "resid" else found[1]]
    return None


def part_of(name: str) -> str | None:
    """Which part of a layer a module is, by its name in a Hugging Face model; None for a whole
    layer, and for what is no module's name.

    >>> part_of("model.layers.3.mlp"), part_of("model.layers.3"), part_of("blocks.3.hook_mlp_out")
    ('mlp', None, None)
    """
    found = _MODULE.fullmatch(name)
    return None if found is None or _HOOK.fullmatch(name) else found[2]


def input_of(name: str) -> Spot | None:
    """What the module called `name` reads, where that is a site: of an MLP its input."""
    found = spot_of(name)
    return (found[0], "mlp_in") if found is not None and found[1] == "mlp_out" else None
