"""Numbers that show that a layer's sites are what their names say, before terabytes are written.

`anatomy` goes by names; an architecture may use the same names for another wiring (a residual
added inside the attention module, a scaled branch). One short forward tells.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from sae_cli.errors import ModelError
from sae_cli.lm.anatomy import anatomy
from sae_cli.lm.capture import capture
from sae_cli.lm.sites import available_sites, find_tap
from sae_cli.spec.stages import Site

_TOKENS = 8


def check_layer(model: PreTrainedModel, layer: int) -> None:
    """Run a few tokens and verify what the residual stream receives in `layer`.

    resid_mid = resid_pre + attn_out and resid_post = resid_mid + mlp_out; where attention and
    MLP run side by side, resid_post = resid_pre + attn_out + mlp_out. The tolerance is 2 % of
    what was added, plus the rounding of the model's dtype. Raises ModelError if it does not hold:
    then only resid_pre and resid_post can be trusted on this model.
    """
    parallel = anatomy(model, layer).parallel
    names = [site for site in available_sites(model, layer) if site not in ("attn_z", "mlp_in")]
    vocabulary = int(model.config.get_text_config().vocab_size)
    blocks = torch.arange(1, _TOKENS + 1)[None] % vocabulary
    found = capture(model, blocks, [find_tap(model, layer, site) for site in names])
    at: dict[Site, torch.Tensor] = {s: x.cpu().double() for s, x in zip(names, found, strict=True)}
    eps = torch.finfo(found[0].dtype).eps
    if parallel:
        steps = [("resid_post", at["resid_pre"], at["attn_out"] + at["mlp_out"], at["resid_post"])]
    else:
        steps = [
            ("resid_mid", at["resid_pre"], at["attn_out"], at["resid_mid"]),
            ("resid_post", at["resid_mid"], at["mlp_out"], at["resid_post"]),
        ]
    for name, before, added, after in steps:
        off = (before + added - after).norm(dim=-1)
        allowed = 0.02 * added.norm(dim=-1) + 4 * eps * (before.norm(dim=-1) + after.norm(dim=-1))
        if not bool((off <= allowed).all()):
            raise ModelError(
                f"layer {layer} of {type(model).__name__} is not wired as its module names say: "
                f"what was found does not add up to {name}",
                hint="on this model only resid_pre and resid_post can be captured.",
            )
