"""circuit-tracer's per-layer transcoder sets: one folder for all layers of a model.

    config.yaml           model_name, model_kind, feature_input_hook, feature_output_hook, scan
    layer_{n}.safetensors W_enc [d_sae, d], W_dec [d_sae, d], b_enc [d_sae], b_dec [d],
                          activation_function.threshold [d_sae], W_skip [d, d] where there is one

A set holds layers 0, 1, ... without a gap, all of one width: that is for the writer of the whole to
see to (`gap`). Names of tensors are strict: what else is known stands beside them. Thresholds are
raw, with a strict `>`; without them it is a ReLU. Top-k is refused: the loader of a folder on disk
knows no k.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import torch
import yaml
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.atomic import write_bytes
from sae_cli.store.formats.coder import (
    Coder,
    folded,
    read_record,
    read_safetensors,
    require,
    write_record,
    write_safetensors,
)

CONFIG = "config.yaml"
THRESHOLD = "activation_function.threshold"
HOOKS = {
    ("mlp_in", "mlp_out"): ("mlp.hook_in", "mlp.hook_out"),
    ("resid_mid", "mlp_out"): ("hook_resid_mid", "hook_mlp_out"),
}
"""What a transcoder reads and predicts, and the names that circuit-tracer knows them by."""
_NAMES = {"W_enc": 2, "W_dec": 2, "b_enc": 1, "b_dec": 1}
_FILE = re.compile(r"layer_(\d+)\.safetensors")


def refusal(coder: Coder) -> str | None:
    """Why a set can't hold `coder`; None if it can."""
    if not coder.transcodes:
        return "circuit-tracer takes transcoders alone"
    if coder.arch == "topk":
        return "circuit-tracer's loader of a folder knows no k: ReLU and JumpReLU transcoders only"
    if coder.layer is None:
        return "circuit-tracer names a file by its layer, which is not known"
    sites = (coder.record.get("site"), coder.record.get("out_site"))
    if sites not in HOOKS:
        known = ", ".join(f"{a} to {b}" for a, b in HOOKS)
        return f"circuit-tracer replaces an MLP ({known}), not {sites[0]} to {sites[1]}"
    return None


def gap(layers: Collection[int]) -> str | None:
    """Why these layers make no set; None if they do."""
    if sorted(layers) != list(range(len(layers))):
        return f"a circuit-tracer set has every layer from 0 on, once; these are {sorted(layers)}"
    return None


def write(coder: Coder, folder: Path) -> None:
    """Write one layer of a set, and the set's config.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    given, predicted = HOOKS[coder.record["site"], coder.record["out_site"]]
    tensors = {
        "W_enc": coder.plain("W_enc").T.contiguous(),
        **{name: coder.plain(name) for name in ("W_dec", "b_enc", "b_dec")},
    }
    if "threshold" in coder.tensors:
        tensors[THRESHOLD] = coder.plain("threshold")
    if "W_skip" in coder.tensors:
        tensors["W_skip"] = coder.plain("W_skip")
    write_safetensors(folder / f"layer_{coder.layer}.safetensors", tensors)
    write_record(coder, folder / f"saectl_layer_{coder.layer}.json")
    config = {
        "model_name": coder.metadata.get("model_name"),
        "model_kind": "transcoder_set",
        "feature_input_hook": given,
        "feature_output_hook": predicted,
        "scan": folder.name,
    }
    write_bytes(folder / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())


def read(folder: Path, layer: int | None = None) -> Coder:
    """The transcoder of `layer`, folded; `layer` may be left out where there is only one.

    Without our record beside it, what it predicts is known by circuit-tracer's names alone.
    """
    layer, t = _file(folder, layer)
    tensors = {"W_enc": t["W_enc"].T.contiguous(), **{n: t[n] for n in ("W_dec", "b_enc", "b_dec")}}
    if "W_skip" in t:
        tensors["W_skip"] = t["W_skip"]
    arch = "relu_l1"
    if THRESHOLD in t:
        arch, tensors["threshold"] = "jumprelu", t[THRESHOLD].clamp_min(0.0)
    metadata = read_record(folder / f"saectl_layer_{layer}.json").get("metadata")
    if metadata is None:
        config = yaml.safe_load((folder / CONFIG).read_bytes())
        metadata = {
            "model_name": config["model_name"],
            "layer": layer,
            "hook_name": f"blocks.{layer}.{config['feature_input_hook']}",
            "hook_name_out": f"blocks.{layer}.{config['feature_output_hook']}",
        }
    return folded(Coder(tensors, arch, None, metadata), folder)


def apply(folder: Path, x: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
    """What circuit-tracer computes from a layer: latents `[n, d_sae]` and prediction `[n, d]` of
    `x [n, d]`, in x's number format (`SingleLayerTranscoder.encode` and `decode`)."""
    _, tensors = _file(folder, layer)
    t = {name: tensor.to(x.dtype) for name, tensor in tensors.items()}
    pre = x @ t["W_enc"].T + t["b_enc"]
    f = pre * (pre > t[THRESHOLD]) if THRESHOLD in t else torch.relu(pre)
    out = f @ t["W_dec"] + t["b_dec"]
    return f, (out + x @ t["W_skip"].T if "W_skip" in t else out)


def _file(folder: Path, layer: int | None) -> tuple[int, dict[str, Tensor]]:
    found = {int(m[1]): p for p in folder.glob("layer_*") if (m := _FILE.fullmatch(p.name))}
    if layer is None and len(found) == 1:
        (layer,) = found
    if layer is None or layer not in found or not (folder / CONFIG).is_file():
        raise StoreError(
            f"{folder} is no circuit-tracer set with layer {layer}: it has layers {sorted(found)}"
            + ("" if (folder / CONFIG).is_file() else f" and no {CONFIG}")
        )
    tensors = read_safetensors(found[layer])
    require(tensors, _NAMES, found[layer])
    extra = set(tensors) - set(_NAMES) - {THRESHOLD, "W_skip"}
    if extra:
        raise StoreError(f"{found[layer]} holds {sorted(extra)}, which its loader refuses")
    return layer, tensors
