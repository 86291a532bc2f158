"""dictionary_learning (Marks, Karvonen, Mueller): `load_dictionary(folder, device)`.

    config.json   {"trainer": {"dict_class": ..., "k": ...}, "buffer": {...}}
    ae.pt         a state dict, whose names and shapes follow the class

topk is its AutoEncoderTopK, which subtracts b_dec; relu_l1 its AutoEncoderNew and jumprelu its
JumpReluAutoEncoder, which do not. On the way in also AutoEncoder, BatchTopKSAE and
MatryoshkaBatchTopKSAE, the last two by their one threshold; a GatedAutoEncoder is refused. It has
no transcoders.
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
    no_transcoder,
    raw_bias,
    read_pt,
    read_record,
    require,
    write_pt,
    write_record,
)

CONFIG, WEIGHTS = "config.json", "ae.pt"
CLASSES = {
    "topk": "AutoEncoderTopK",
    "relu_l1": "AutoEncoderNew",
    "jumprelu": "JumpReluAutoEncoder",
}
UNSET = -1.0
"""What AutoEncoderTopK's threshold is where none was measured; its encoder does not use it."""
_LINEAR = {"encoder.weight": 2, "encoder.bias": 1, "decoder.weight": 2}
_NAMES: dict[str, dict[str, int]] = {
    "AutoEncoder": {**_LINEAR, "bias": 1},
    "AutoEncoderNew": {**_LINEAR, "decoder.bias": 1},
    "AutoEncoderTopK": {**_LINEAR, "b_dec": 1},
    "BatchTopKSAE": {**_LINEAR, "b_dec": 1, "threshold": 0},
    "MatryoshkaBatchTopKSAE": {"W_enc": 2, "W_dec": 2, "b_enc": 1, "b_dec": 1, "threshold": 0},
    "JumpReluAutoEncoder": {"W_enc": 2, "W_dec": 2, "b_enc": 1, "b_dec": 1, "threshold": 1},
}
"""What a class's state dict holds, and how many dimensions each tensor has."""
_CENTRED = {"AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"}
"""Classes that subtract the decoder's bias from their input."""


def refusal(coder: Coder) -> str | None:
    """Why dictionary_learning can't hold `coder`; None if it can."""
    return no_transcoder(coder, "dictionary_learning")


def write(coder: Coder, folder: Path) -> None:
    """Write one SAE."""
    folder.mkdir(parents=True, exist_ok=True)
    W_enc, W_dec, b_dec = (coder.plain(name) for name in ("W_enc", "W_dec", "b_dec"))
    linear = {"encoder.weight": W_enc.T.contiguous(), "decoder.weight": W_dec.T.contiguous()}
    if coder.arch == "topk":
        tensors = {
            **linear, "encoder.bias": coder.centred_bias(), "b_dec": b_dec,
            "k": torch.tensor(coder.k, dtype=torch.int32), "threshold": torch.tensor(UNSET),
        }  # fmt: skip
    elif coder.arch == "relu_l1":
        tensors = {**linear, "encoder.bias": coder.plain("b_enc"), "decoder.bias": b_dec}
    else:
        tensors = {name: coder.plain(name) for name in _NAMES["JumpReluAutoEncoder"]}
    write_pt(folder / WEIGHTS, tensors)
    write_record(coder, folder / RECORD)
    d_in, d_sae = W_enc.shape
    trainer = {
        "dict_class": CLASSES[coder.arch], "k": coder.k, "activation_dim": d_in,
        "dict_size": d_sae, "layer": coder.layer, "lm_name": coder.metadata.get("model_name"),
        "submodule_name": coder.metadata.get("hf_hook_name"),
    }  # fmt: skip
    buffer = {"d_submodule": d_in, "ctx_len": coder.metadata.get("context_size")}
    write_json(
        folder / CONFIG,
        {"trainer": {n: v for n, v in trainer.items() if v is not None}, "buffer": buffer},
    )


def read(folder: Path, layer: int | None = None) -> Coder:
    """The SAE in `folder`, folded. Raises StoreError for a class that has no counterpart."""
    kind, trainer, t = _files(folder)
    W_enc, b_enc, W_dec, b_dec = _parts(t)
    record = read_record(folder / RECORD)
    known = {
        "model_name": trainer.get("lm_name"),
        "layer": trainer.get("layer", layer),
        "hook_name": trainer.get("submodule_name"),
    }
    metadata = record.get("metadata", {n: v for n, v in known.items() if v is not None})
    if kind in _CENTRED:
        b_enc = raw_bias(W_enc, b_enc, b_dec)
    tensors = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}
    if kind == "AutoEncoderTopK":
        return folded(Coder(tensors, "topk", _k(trainer, t, folder), metadata), folder)
    if "threshold" not in _NAMES[kind]:
        return folded(Coder(tensors, "relu_l1", None, metadata), folder)
    threshold = t["threshold"].float().expand(b_enc.shape).contiguous()
    if kind != "JumpReluAutoEncoder" and float(t["threshold"]) < 0:
        raise StoreError(f"{folder / WEIGHTS}: its threshold was never measured, so it has no L0")
    tensors["threshold"] = threshold.clamp_min(0.0)  # relu(pre) > 0 all the same
    return folded(Coder(tensors, "jumprelu", None, metadata), folder)


def apply(folder: Path, x: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
    """What dictionary_learning computes from these files: latents `[n, d_sae]` and reconstruction
    `[n, d_in]` of `x [n, d_in]`, in x's number format (`encode` and `decode` of the class)."""
    kind, trainer, tensors = _files(folder)
    W_enc, b_enc, W_dec, b_dec = (p.to(x.dtype) for p in _parts(tensors))
    f = torch.relu((x - b_dec if kind in _CENTRED else x) @ W_enc + b_enc)
    if kind == "AutoEncoderTopK":
        values, indices = f.topk(_k(trainer, tensors, folder), dim=-1)
        f = torch.zeros_like(f).scatter_(1, indices, values)
    elif "threshold" in _NAMES[kind]:
        f = f * (f > tensors["threshold"].to(x.dtype))
    return f, f @ W_dec + b_dec


def _files(folder: Path) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """The class, what its training says of itself, and the state dict."""
    config = read_json(folder / CONFIG)
    trainer = config.get("trainer") if isinstance(config, dict) else None
    if not isinstance(trainer, dict) or "dict_class" not in trainer:
        raise StoreError(f"{folder} is no dictionary_learning folder: no dict_class in {CONFIG}")
    kind = trainer["dict_class"]
    if kind not in _NAMES:
        raise StoreError(f"{folder / CONFIG}: nothing here computes a {kind}")
    tensors = read_pt(folder / WEIGHTS)
    require(tensors, _NAMES[kind], folder / WEIGHTS)
    return kind, trainer, tensors


def _parts(t: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in] and b_dec, whatever their names."""
    if "W_enc" in t:
        return t["W_enc"], t["b_enc"], t["W_dec"], t["b_dec"]
    (bias,) = (t[name] for name in ("b_dec", "bias", "decoder.bias") if name in t)
    return (
        t["encoder.weight"].T.contiguous(),
        t["encoder.bias"],
        t["decoder.weight"].T.contiguous(),
        bias,
    )


def _k(trainer: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> int:
    found = trainer.get("k", tensors.get("k"))
    if found is None:
        raise StoreError(f"{folder} says k neither in {CONFIG} nor in {WEIGHTS}")
    return int(found)
