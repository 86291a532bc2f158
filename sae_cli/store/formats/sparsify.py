"""EleutherAI's sparsify: `SparseCoder.load_from_disk(folder)`; top-k alone.

    cfg.json          d_in, num_latents, k, activation, transcode, skip_connection
    sae.safetensors   encoder.weight [d_sae, d_in], encoder.bias [d_sae], W_dec [d_sae, d_in],
                      b_dec [d_in], W_skip [d_in, d_in] where there is one

An SAE there subtracts b_dec before it encodes; a transcoder does not, and must have d_out = d_in.
Its `groupmax` activation and multi-top-k have no counterpart here and are refused on the way in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.atomic import read_json, write_json
from sae_cli.store.formats.coder import (
    RECORD,
    Coder,
    folded,
    only_k,
    raw_bias,
    read_record,
    read_safetensors,
    require,
    write_record,
    write_safetensors,
)

CFG, WEIGHTS = "cfg.json", "sae.safetensors"
_NAMES = {"encoder.weight": 2, "encoder.bias": 1, "W_dec": 2, "b_dec": 1}


def refusal(coder: Coder) -> str | None:
    """Why sparsify can't hold `coder`; None if it can."""
    d_in, d_out = coder.tensors["W_enc"].shape[0], coder.tensors["b_dec"].shape[0]
    if d_in != d_out:
        return f"sparsify's transcoders predict as many numbers as they read, not {d_in} to {d_out}"
    return only_k(coder, "sparsify")


def write(coder: Coder, folder: Path) -> None:
    """Write one SAE or transcoder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "encoder.weight": coder.plain("W_enc").T.contiguous(),
        "encoder.bias": coder.plain("b_enc") if coder.transcodes else coder.centred_bias(),
        "W_dec": coder.plain("W_dec"),
        "b_dec": coder.plain("b_dec"),
    }
    if "W_skip" in coder.tensors:
        tensors["W_skip"] = coder.plain("W_skip")
    d_sae, d_in = tensors["encoder.weight"].shape
    write_safetensors(folder / WEIGHTS, tensors)
    write_record(coder, folder / RECORD)
    cfg = {
        "activation": "topk", "expansion_factor": max(1, d_sae // d_in), "normalize_decoder": True,
        "num_latents": d_sae, "k": coder.k, "multi_topk": False,
        "skip_connection": "W_skip" in tensors, "transcode": coder.transcodes, "d_in": d_in,
    }  # fmt: skip
    write_json(folder / CFG, cfg)


def read(folder: Path, layer: int | None = None) -> Coder:
    """The SAE or transcoder in `folder`, folded. Raises StoreError for what has no counterpart."""
    cfg, tensors = _files(folder)
    record = read_record(folder / RECORD)
    W_enc = tensors["encoder.weight"].T.contiguous()
    b_enc = tensors["encoder.bias"]
    ours = {
        "W_enc": W_enc,
        "W_dec": tensors["W_dec"],
        "b_enc": b_enc if cfg.get("transcode") else raw_bias(W_enc, b_enc, tensors["b_dec"]),
        "b_dec": tensors["b_dec"],
    }
    if "W_skip" in tensors:
        ours["W_skip"] = tensors["W_skip"]
    bare = {"layer": layer, **({"hook_name_out": ""} if cfg.get("transcode") else {})}
    metadata = record.get("metadata", bare)  # what a transcoder predicts is not said
    return folded(Coder(ours, "topk", int(cfg.get("k", 32)), metadata), folder)


def apply(folder: Path, x: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
    """What sparsify computes from these files: latents `[n, d_sae]` and output `[n, d_in]` of
    `x [n, d_in]`, in x's number format (`SparseCoder.encode` and `forward`)."""
    cfg, tensors = _files(folder)
    t = {name: tensor.to(x.dtype) for name, tensor in tensors.items()}
    given = x if cfg.get("transcode") else x - t["b_dec"]
    pre = torch.relu(given @ t["encoder.weight"].T + t["encoder.bias"])
    values, indices = pre.topk(cfg.get("k", 32), dim=-1)
    f = torch.zeros_like(pre).scatter_(1, indices, values)
    out = f @ t["W_dec"] + t["b_dec"]
    return f, (out + x @ t["W_skip"].T if "W_skip" in t else out)


def _files(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    cfg = read_json(folder / CFG)
    if not isinstance(cfg, dict):
        raise StoreError(f"{folder} is no sparsify folder: it has no {CFG}")
    for name, ours in (("activation", "topk"), ("multi_topk", False)):
        if cfg.get(name, ours) != ours:
            raise StoreError(
                f"{folder / CFG} has {name}: {cfg[name]!r}, which nothing here computes"
            )
    tensors = read_safetensors(folder / WEIGHTS)
    require(tensors, _NAMES, folder / WEIGHTS)
    return cfg, tensors
