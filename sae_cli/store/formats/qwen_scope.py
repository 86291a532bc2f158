"""Qwen-Scope: one `layer{n}.sae.pt` a layer, top-k alone, no code of its own to load it.

    layer{n}.sae.pt   W_enc [d_sae, d_in], W_dec [d_in, d_sae], b_enc [d_sae], b_dec [d_in], float32

Its readers take the k largest of x W_enc^T + b_enc as they are: no b_dec is subtracted, and there
is no ReLU, so a token on which fewer than k latents are positive gets negative ones. An SAE of
which that is so is found out when the file is checked, not approximated. k stands in the name of
the folder alone (`...-L0_50`), and in our record beside the files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.formats.coder import (
    Coder,
    folded,
    no_transcoder,
    only_k,
    read_pt,
    read_record,
    require,
    write_pt,
    write_record,
)
from sae_cli.store.formats.said import k_by_folders

_NAMES = {"W_enc": 2, "W_dec": 2, "b_enc": 1, "b_dec": 1}
_FILE = re.compile(r"layer(\d+)\.sae\.pt")


def refusal(coder: Coder) -> str | None:
    """Why Qwen-Scope can't hold `coder`; None if it can."""
    if coder.layer is None:
        return "Qwen-Scope names a file by its layer, which is not known"
    return no_transcoder(coder, "Qwen-Scope") or only_k(coder, "Qwen-Scope")


def write(coder: Coder, folder: Path) -> None:
    """Write one SAE. A folder may hold one of each layer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "W_enc": coder.plain("W_enc").T.contiguous(),
        "W_dec": coder.plain("W_dec").T.contiguous(),
        "b_enc": coder.plain("b_enc"),
        "b_dec": coder.plain("b_dec"),
    }
    write_record(coder, folder / f"layer{coder.layer}.saectl.json")
    write_pt(folder / f"layer{coder.layer}.sae.pt", tensors)


def read(folder: Path, layer: int | None = None) -> Coder:
    """The SAE of `layer` in `folder`, folded; `layer` may be left out where there is only one.

    Raises StoreError where neither the folder's name nor a record says k.
    """
    t, record, k = _files(folder, layer)
    tensors = {
        "W_enc": t["W_enc"].T.contiguous(),
        "W_dec": t["W_dec"].T.contiguous(),
        "b_enc": t["b_enc"],
        "b_dec": t["b_dec"],
    }
    return folded(Coder(tensors, "topk", k, record.get("metadata", {"layer": layer})), folder)


def apply(folder: Path, x: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
    """What Qwen-Scope's readers compute: latents `[n, d_sae]`, which may be negative, and
    reconstruction `[n, d_in]` of `x [n, d_in]`, in x's number format."""
    tensors, _, k = _files(folder, layer)
    t = {name: tensor.to(x.dtype) for name, tensor in tensors.items()}
    pre = x @ t["W_enc"].T + t["b_enc"]
    values, indices = pre.topk(k, dim=-1)
    f = torch.zeros_like(pre).scatter_(1, indices, values)
    return f, f @ t["W_dec"].T + t["b_dec"]


def _files(folder: Path, layer: int | None) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    found = {int(m[1]): p for p in folder.glob("*.sae.pt") if (m := _FILE.fullmatch(p.name))}
    if layer is None and len(found) == 1:
        (layer,) = found
    if layer is None or layer not in found:
        said = f"layers {sorted(found)}" if found else "no layer{n}.sae.pt"
        raise StoreError(f"{folder} holds {said}; asked for layer {layer}")
    tensors = read_pt(found[layer])
    require(tensors, _NAMES, found[layer])
    record = read_record(folder / f"layer{layer}.saectl.json")
    k = record.get("k") or k_by_folders(folder)
    if k is None:
        raise StoreError(
            f"{folder} does not say k: Qwen-Scope has it in the name of the folder alone",
            hint="name the folder as the repository is named, ...-L0_50",
        )
    return tensors, record, int(k)
