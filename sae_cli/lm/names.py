"""What others call a site and a model: for release cards, `cfg.json` and experiment trackers.

Torch-free on purpose: planning and release code may import it. It refuses nothing: every site of
the spec has a name, also on models where the site itself does not exist.
"""

from __future__ import annotations

from pathlib import Path

from sae_cli.spec.stages import ModelSpec, Site

_HOOKS: dict[Site, str] = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "attn_z": "attn.hook_z",
    "mlp_in": "mlp.hook_in",
    "mlp_out": "hook_mlp_out",
}


def hook_name(layer: int, site: Site) -> str:
    """`hook_name(3, "resid_post")` is `blocks.3.hook_resid_post`.

    `mlp_in` is `blocks.N.mlp.hook_in`, the MLP's own input after the norm's gain, and not
    TransformerLens' `ln2.hook_normalized`, which is taken before the gain. `attn_z` is stored
    flat, `[n_heads * head_dim]`, where TransformerLens keeps `[n_heads, head_dim]`.
    """
    return f"blocks.{layer}.{_HOOKS[site]}"


def model_name(model: ModelSpec) -> str:
    """The name by which others know the model: hub id, else the folder's or preset's name. A model
    whose weights are drawn anew has another one, for nobody else has that model."""
    return (model.hf or model.builtin or Path(model.path or "").name) + model.anew
