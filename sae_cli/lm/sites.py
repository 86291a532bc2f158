"""(model, layer, site) -> the module to hook, and whether to read its input or its output.

Sites mean the same on every model: `attn_out` and `mlp_out` are what the residual stream receives
(after W_O; on models that normalise a part's output, after that norm), so that

    resid_mid = resid_pre + attn_out        resid_post = resid_mid + mlp_out

On models whose attention and MLP run side by side there is no `resid_mid`, and asking for it is
an error, never an approximation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn
from transformers import PreTrainedModel

from sae_cli.errors import ModelError
from sae_cli.lm.anatomy import Anatomy, anatomy, projection_inputs, width
from sae_cli.spec.stages import Site

Where = Literal["input", "output"]
_SITES: tuple[Site, ...] = get_args(Site)


@dataclass(frozen=True)
class Tap:
    """One place to read or edit: the input or the output of one module."""

    module: nn.Module
    name: str
    """Dotted name in the model, for example `model.layers.3.mlp`."""
    where: Where
    layer: int
    site: Site
    dim: int
    """Size of the last dimension: d_model, or n_heads * head_dim for `attn_z`."""


def find_tap(model: PreTrainedModel, layer: int, site: Site) -> Tap:
    """The tap for `site` of layer `layer` (0-based).

    Raises ModelError when the layer is out of range or the model has no such site there.
    """
    parts = anatomy(model, layer)
    places = _places(parts)
    if site not in places:
        because = (
            "its attention and MLP run side by side, so the residual stream has no middle"
            if site == "resid_mid" and parts.parallel
            else "no such part was found"
        )
        raise ModelError(
            f"layer {layer} of {type(model).__name__} has no site {site}: {because}",
            hint=f"it has: {', '.join(s for s in _SITES if s in places)}.",
        )
    module, where = places[site]
    dim = width(model)
    if site == "attn_z":
        assert parts.projection is not None
        dim = projection_inputs(parts.projection)
    return Tap(module, _dotted(model, module), where, layer, site, dim)


def available_sites(model: PreTrainedModel, layer: int) -> tuple[Site, ...]:
    """The sites that layer `layer` has, in the spec's order. Raises ModelError as `find_tap`."""
    places = _places(anatomy(model, layer))
    return tuple(site for site in _SITES if site in places)


def _places(parts: Anatomy) -> dict[Site, tuple[nn.Module, Where]]:
    places: dict[Site, tuple[nn.Module, Where]] = {
        "resid_pre": (parts.layer, "input"),
        "resid_post": (parts.layer, "output"),
        "attn_out": (parts.attention_norm or parts.attention, "output"),
        "mlp_in": (parts.mlp, "input"),
        "mlp_out": (parts.mlp_norm or parts.mlp, "output"),
    }
    if parts.projection is not None:
        places["attn_z"] = (parts.projection, "input")
    if not parts.parallel:
        places["resid_mid"] = (parts.mlp_input_norm or parts.mlp, "input")
    return places


def _dotted(model: PreTrainedModel, module: nn.Module) -> str:
    names = (name for name, other in model.named_modules() if other is module)
    return str(next(names))
