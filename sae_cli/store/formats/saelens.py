"""SAELens 6 folders of any convention, on the way in; what we write is `store.weights`.

    cfg.json                 architecture, d_in, d_sae, dtype, metadata
    sae_weights.safetensors  W_enc W_dec b_enc b_dec, threshold, W_skip

SAELens also keeps SAEs whose encoder subtracts b_dec, and whose decoder rows have any norm; both
are folded here. Inputs that it would normalise first, gated and other architectures are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.atomic import read_json
from sae_cli.store.formats.coder import Coder, folded, raw_bias, read_safetensors, require
from sae_cli.store.sae_names import NAMES, TRANSCODERS
from sae_cli.store.weights import CFG, WEIGHTS

_NAMES = {"W_enc": 2, "W_dec": 2, "b_enc": 1, "b_dec": 1}


def read(folder: Path, layer: int | None = None) -> Coder:
    """The SAE or transcoder in `folder`, folded. Raises StoreError for what has no counterpart."""
    cfg = _config(folder)
    arch = NAMES[cfg["architecture"]]
    needs = {**_NAMES, **({"threshold": 1} if arch == "jumprelu" else {})}
    t = read_safetensors(folder / WEIGHTS)
    require(t, needs, folder / WEIGHTS)
    extra = set(t) - set(needs) - {"W_skip"}
    if extra:
        raise StoreError(f"{folder / WEIGHTS} holds {sorted(extra)}, which {arch} has not")
    if cfg.get("apply_b_dec_to_input", True):
        t["b_enc"] = raw_bias(t["W_enc"], t["b_enc"], t["b_dec"])
    if "threshold" in t:
        t["threshold"] = t["threshold"].clamp_min(0.0)  # relu(pre) > 0 all the same
    k = int(cfg.get("k", 100)) if arch == "topk" else None  # 100 is SAELens's default
    if k is not None and cfg.get("rescale_acts_by_decoder_norm"):
        t = _rescaled(t)
    transcodes = cfg["architecture"] in TRANSCODERS.values()
    bare = {"layer": layer, **({"hook_name_out": ""} if transcodes else {})}  # it need not say
    metadata = {**bare, **cfg.get("metadata", {})}
    return folded(Coder(t, arch, k, metadata), folder)


def _config(folder: Path) -> dict[str, Any]:
    cfg = read_json(folder / CFG)
    if not isinstance(cfg, dict) or "architecture" not in cfg:
        raise StoreError(f"{folder} is no SAELens folder: no architecture in {CFG}")
    if cfg["architecture"] not in NAMES:
        known = ", ".join(sorted(NAMES))
        raise StoreError(f"{folder / CFG}: nothing here computes {cfg['architecture']!r} ({known})")
    if cfg.get("normalize_activations", "none") not in (None, "none"):
        raise StoreError(
            f"{folder / CFG} has normalize_activations: {cfg['normalize_activations']!r}, and does "
            "not hold what to normalise with"
        )
    if cfg["architecture"] in TRANSCODERS.values() and cfg.get("apply_b_dec_to_input", True):
        raise StoreError(
            f"{folder / CFG}: a transcoder can't subtract the output's bias from its input"
        )
    return cfg


def _rescaled(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same SAE with decoder rows of unit norm, where pre-activations were multiplied by their
    norms before the k largest were taken and divided again after (`rescale_acts_by_decoder_norm`):
    then, unlike else, it may be folded."""
    norms = torch.linalg.vector_norm(t["W_dec"].double(), dim=1)
    norms = torch.where(norms == 0, 1.0, norms)
    factors = {"W_enc": norms, "b_enc": norms, "W_dec": 1 / norms[:, None]}
    return {
        name: (tensor.double() * factors[name]).to(tensor.dtype) if name in factors else tensor
        for name, tensor in t.items()
    }
