"""An SAE folder, which is at once a folder that SAELens 6 loads.

    cfg.json                  architecture, shapes, and where the SAE comes from
    sae_weights.safetensors   W_enc W_dec b_enc b_dec, threshold for jumprelu, W_skip for a skip
    sparsity.safetensors      log10 of how often each latent fires, where that is known

Everything is folded before it comes here: raw activations in, unit-norm decoder rows, no
subtraction of b_dec. What says otherwise is refused, both ways: a loader that guessed would give
wrong latents silently. A transcoder is one whose cfg.json says `d_out`; SAELens has none of kind
TopK, so such a folder names an architecture that it refuses, not one that it would misread.

The store knows no torch module; `sae.base.SAE` goes in and out as a dict of tensors. The same
content always gives the same bytes; cfg.json is written last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained, read_json, write_bytes, write_json
from sae_cli.store.sae_names import ARCHITECTURES, NAMES, TRANSCODERS

CFG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
FORMAT_VERSION = "6.0.0"
"""The SAELens version that introduced this layout. Below it, SAELens drops the metadata."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TINY_DENSITY = 1e-10
"""Added before the logarithm in sparsity.safetensors, as SAELens does."""
UNIT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""How far a decoder row's norm may be from 1; rounding to the number format costs this much."""


@dataclass(frozen=True)
class Folder:
    """What an SAE folder holds."""

    tensors: dict[str, Tensor]
    arch: str
    """Our name: topk, relu_l1 or jumprelu."""
    k: int | None
    """Active latents per token, topk only."""
    cfg: dict[str, Any]
    """cfg.json as it stands; `cfg["metadata"]["saectl"]` is our own record."""
    density: Tensor | None
    """[d_sae] float32, share of tokens on which each latent fires, where known."""


def config(
    tensors: Mapping[str, Tensor],
    *,
    arch: str,
    k: int | None,
    model_name: str,
    hook_name: str,
    hf_hook_name: str,
    hook_name_out: str | None = None,
    hf_hook_name_out: str | None = None,
    context_size: int,
    l0: float | None = None,
    num_dead_features: int | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The cfg.json of an SAE with these tensors.

    `hook_name` is TransformerLens's (`blocks.4.hook_resid_post`), `hf_hook_name` the module's path
    in the Hugging Face model (`model.layers.4`); those with `_out` say what a transcoder predicts,
    and make it one. `provenance` is JSON, kept under
    `metadata.saectl` beside our name of the architecture. Unknown figures are left out.
    """
    transcodes = hook_name_out is not None
    if transcodes:
        architecture = TRANSCODERS.get((arch, "W_skip" in tensors))
    else:
        architecture = ARCHITECTURES.get(arch)
    if architecture is None:
        kind = "transcoder" if transcodes else "SAE"
        raise StoreError(f"no {kind} folder can hold architecture {arch!r}")
    d_in, d_sae = tensors["W_enc"].shape
    names = {dtype: name for name, dtype in DTYPES.items()}
    if tensors["W_enc"].dtype not in names:
        raise StoreError(f"an SAE folder holds {', '.join(DTYPES)}, not {tensors['W_enc'].dtype}")
    known = {"l0": l0, "num_dead_features": num_dead_features}
    cfg: dict[str, Any] = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": names[tensors["W_enc"].dtype],
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if hook_name.endswith("_z") and not transcodes else "none",
        "metadata": {
            "sae_lens_version": FORMAT_VERSION,
            "model_name": model_name,
            "model_class_name": "AutoModelForCausalLM",
            "hook_name": hook_name,
            "hf_hook_name": hf_hook_name,
            "context_size": context_size,
            "prepend_bos": False,
            "training_architecture": architecture,
            **{name: value for name, value in known.items() if value is not None},
            "saectl": {"arch": arch, **(provenance or {})},
        },
    }
    if transcodes:
        cfg["d_out"] = tensors["W_dec"].shape[1]
        cfg["metadata"] |= {"hook_name_out": hook_name_out, "hf_hook_name_out": hf_hook_name_out}
    if arch == "topk":
        cfg |= {"k": k, "rescale_acts_by_decoder_norm": True}
    return cfg


def save_sae(
    folder: Path,
    tensors: Mapping[str, Tensor],
    cfg: Mapping[str, Any],
    density: Tensor | None = None,
) -> list[Path]:
    """Write an SAE folder: each file atomically, cfg.json last. Returns the files.

    `tensors` as `SAE.tensors()` gives them, `cfg` as `config` does, `density [d_sae]` the share of
    tokens on which each latent fires. Raises StoreError when they contradict each other, hold
    numbers that are not finite, or can't be written.
    """
    held = {n: t.detach().to("cpu").contiguous() for n, t in tensors.items()}
    _check(held, cfg, folder)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / WEIGHTS, safetensors.torch.save(held))
    written = [folder / WEIGHTS]
    if density is not None:
        if tuple(density.shape) != (cfg["d_sae"],):
            raise StoreError(f"{folder}: density has shape {tuple(density.shape)}")
        logs = (density.detach().cpu().double() + TINY_DENSITY).log10().float()
        write_bytes(folder / SPARSITY, safetensors.torch.save({"sparsity": logs}))
        written.append(folder / SPARSITY)
    write_json(folder / CFG, dict(cfg))
    return [*written, folder / CFG]


def load_sae(folder: Path) -> Folder:
    """Read an SAE folder that `save_sae` wrote (or another writer, in the same conventions).

    Raises StoreError, with the file and what is wrong with it, when something is missing, damaged
    or follows other conventions.
    """
    cfg = read_json(folder / CFG)
    if cfg is None:
        raise StoreError(f"{folder} is no SAE folder: it has no {CFG}")
    if not isinstance(cfg, dict):
        raise StoreError(f"{folder / CFG} is no JSON object")
    tensors = _read(folder / WEIGHTS)
    _check(tensors, cfg, folder)
    density = None
    if (folder / SPARSITY).exists():
        logs = _read(folder / SPARSITY).get("sparsity")
        if logs is None or tuple(logs.shape) != (cfg["d_sae"],):
            raise StoreError(f"{folder / SPARSITY} does not hold one number for each latent")
        density = (torch.pow(10.0, logs.double()) - TINY_DENSITY).clamp_min(0.0).float()
    return Folder(tensors, NAMES[cfg["architecture"]], cfg.get("k"), cfg, density)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise StoreError(f"{path} is missing")
    try:
        with explained(path, "read"):
            held: dict[str, Tensor] = safetensors.torch.load(path.read_bytes())
            return held
    except safetensors.SafetensorError as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def _check(tensors: Mapping[str, Tensor], cfg: Mapping[str, Any], folder: Path) -> None:
    """Raise StoreError unless cfg and tensors describe one folded SAE."""

    def refuse(what: str) -> StoreError:
        return StoreError(f"{folder}: {what}")

    for name in ("architecture", "d_in", "d_sae", "dtype"):
        if name not in cfg:
            raise refuse(f"{CFG} lacks {name!r}")
    for name, ours in (("apply_b_dec_to_input", False), ("normalize_activations", "none")):
        if cfg.get(name) != ours:
            raise refuse(f"{CFG} has {name}: {cfg.get(name)!r}; only folded SAEs ({ours!r}) count")
    architecture, d_in, d_sae = cfg["architecture"], cfg["d_in"], cfg["d_sae"]
    arch = NAMES.get(architecture)
    if arch is None:
        raise refuse(f"unknown architecture {architecture!r} in {CFG}")
    transcodes = architecture in TRANSCODERS.values()
    if transcodes != ("d_out" in cfg):
        raise refuse(f"{CFG} has {'no ' if transcodes else ''}d_out, but is a {architecture}")
    d_out = cfg.get("d_out", d_in)
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_enc": (d_sae,), "b_dec": (d_out,)}
    if arch == "jumprelu":
        shapes["threshold"] = (d_sae,)
    if architecture == TRANSCODERS.get((arch, True)):
        shapes["W_skip"] = (d_out, d_in)
    if set(tensors) != set(shapes):
        raise refuse(f"{WEIGHTS} holds {sorted(tensors)}, {architecture} has {sorted(shapes)}")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype != DTYPES.get(cfg["dtype"]):
            raise refuse(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}, {CFG} says {cfg['dtype']} {shape}"
            )
        if not bool(tensor.isfinite().all()):
            raise refuse(f"{name} holds numbers that are not finite")
    k = cfg.get("k")
    if arch == "topk" and not (isinstance(k, int) and 1 <= k <= d_sae):
        raise refuse(f"k: {k!r} in {CFG} is no number of active latents")
    norms = torch.linalg.vector_norm(tensors["W_dec"].float(), dim=1)
    worst = float((norms - 1.0).abs().max())
    if worst > UNIT_TOLERANCE[tensors["W_dec"].dtype]:
        raise refuse(f"decoder rows are off unit norm by up to {worst:.2g}; fold the norms first")
