"""Small SAEs and transcoders with every parameter at work, for tests of other projects' files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae_cli.lm.names import hook_name
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import Site
from sae_cli.store.formats.coder import Coder

D_IN, D_SAE, K = 24, 96, 9
LAYER = 3


def coder(
    arch: str,
    *,
    out_site: Site | None = None,
    d_out: int = D_IN,
    skip: bool = False,
    layer: int = LAYER,
    site: Site | None = None,
    seed: int = 0,
) -> Coder:
    """An SAE on `resid_post`, or a transcoder from `mlp_in` to `out_site`: positive thresholds, and
    a b_dec that matters to whoever subtracts it wrongly."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    dec = draw(D_SAE, d_out)
    tensors = {
        "W_enc": draw(D_IN, D_SAE) / 5,
        "W_dec": dec / dec.norm(dim=1, keepdim=True),
        "b_enc": draw(D_SAE) / 5,
        "b_dec": 2 * draw(d_out),
    }
    if arch == "jumprelu":
        tensors["threshold"] = torch.rand(D_SAE, generator=generator)
    if skip:
        tensors["W_skip"] = draw(d_out, D_IN)
    read: Site = site or ("resid_post" if out_site is None else "mlp_in")
    record: dict[str, Any] = {"arch": arch, "layer": layer, "site": read}
    metadata: dict[str, Any] = {
        "model_name": "org/model",
        "hook_name": hook_name(layer, read),
        "hf_hook_name": f"model.layers.{layer}",
        "context_size": 128,
        "saectl": record,
    }
    if out_site is not None:
        record["out_site"] = out_site
        metadata["hook_name_out"] = hook_name(layer, out_site)
    return Coder(tensors, arch, K if arch == "topk" else None, metadata)


def ours(coder: Coder) -> SAE:
    """What computes it here."""
    return SAE.from_tensors(coder.tensors, coder.arch, coder.k)


def inputs(n: int = 200, seed: int = 1) -> Tensor:
    """[n, D_IN]: activations that are off-centre and large, as real ones are."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, D_IN, generator=generator) + torch.randn(D_IN, generator=generator)
