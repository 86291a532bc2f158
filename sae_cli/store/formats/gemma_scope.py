"""Gemma-Scope (arXiv 2408.05147): `params.npz`, JumpReLU; SAELens and Delphi read it.

    params.npz   W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc [d_sae], b_dec [d_in],
                 threshold [d_sae], float32

pre = x W_enc + b_enc, f = relu(pre) [pre > threshold]; b_dec is not subtracted. A ReLU SAE is one
whose thresholds are zero, the same function, and is written so.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained, write_bytes
from sae_cli.store.formats.coder import (
    RECORD,
    Coder,
    folded,
    no_transcoder,
    read_record,
    require,
    write_record,
)

WEIGHTS = "params.npz"
_NAMES = {"W_enc": 2, "W_dec": 2, "b_enc": 1, "b_dec": 1, "threshold": 1}


def refusal(coder: Coder) -> str | None:
    """Why Gemma-Scope can't hold `coder`; None if it can."""
    if coder.arch == "topk":
        return "Gemma-Scope has no topk SAEs, only thresholds"
    return no_transcoder(coder, "Gemma-Scope")


def write(coder: Coder, folder: Path) -> None:
    """Write one SAE. The same tensors give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: coder.plain(name).numpy() for name in coder.tensors}
    arrays.setdefault("threshold", np.zeros_like(arrays["b_enc"]))
    data = io.BytesIO()
    named: dict[str, Any] = {name: arrays[name] for name in _NAMES}
    np.savez(data, **named)
    write_record(coder, folder / RECORD)
    write_bytes(folder / WEIGHTS, data.getvalue())


def read(folder: Path, layer: int | None = None) -> Coder:
    """The SAE in `folder`, folded. Raises StoreError when a file is missing or damaged."""
    record = read_record(folder / RECORD)
    t = _file(folder / WEIGHTS)
    t["threshold"] = t["threshold"].clamp_min(0.0)  # relu(pre) > 0 all the same
    return folded(Coder(t, "jumprelu", None, record.get("metadata", {"layer": layer})), folder)


def apply(folder: Path, x: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
    """What Gemma-Scope's readers compute: latents `[n, d_sae]` and reconstruction `[n, d_in]` of
    `x [n, d_in]`, in x's number format (arXiv 2408.05147, section 2.2)."""
    t = {name: tensor.to(x.dtype) for name, tensor in _file(folder / WEIGHTS).items()}
    pre = x @ t["W_enc"] + t["b_enc"]
    f = torch.relu(pre) * (pre > t["threshold"])
    return f, f @ t["W_dec"] + t["b_dec"]


def _file(path: Path) -> dict[str, Tensor]:
    try:
        with explained(path, "read"), np.load(path, allow_pickle=False) as arrays:
            found = {name.replace("w_", "W_", 1): arrays[name] for name in arrays.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path} is damaged, or holds more than arrays: {error}") from error
    tensors = {n: torch.from_numpy(np.array(a)) for n, a in found.items() if n in _NAMES}
    if set(found) != set(tensors):
        raise StoreError(
            f"{path} holds {sorted(set(found) - set(tensors))}, which nothing here reads"
        )
    require(tensors, _NAMES, path)
    return tensors
