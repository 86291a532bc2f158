"""One SAE on its way into or out of another project's files, and what all formats share.

Inside, our conventions hold (`store.weights`): raw activations in, b_dec not subtracted, decoder
rows of unit norm. Each format changes to its own on the way out and back on the way in, in float64.
Files are written in float32 whatever the release's number format is: peers build float32 modules,
and a bias that is folded anew would lose its last digits in fewer bits.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained, read_json, write_bytes, write_json

RECORD = "saectl.json"
"""Beside a peer's files: what they have no place for. No loader reads it; `read` does without."""
UNIT = 1e-5
"""How far decoder rows of a top-k SAE may differ in norm."""


@dataclass(frozen=True)
class Coder:
    """An SAE or transcoder, in our conventions."""

    tensors: Mapping[str, Tensor]
    """W_enc [d_in, d_sae], W_dec [d_sae, d_out], b_enc [d_sae], b_dec [d_out]; threshold [d_sae]
    of jumprelu; W_skip [d_out, d_in] of a transcoder with a skip."""
    arch: str
    """topk, relu_l1 or jumprelu."""
    k: int | None = None
    """Active latents per token, topk only."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What is known of it, as in `metadata` of cfg.json: model_name, hook_name, and under `saectl`
    our own record, with layer, site, mask and keys."""

    @property
    def transcodes(self) -> bool:
        """Whether it predicts another site than it reads."""
        return self.metadata.get("hook_name_out") is not None

    @property
    def record(self) -> Mapping[str, Any]:
        """Our own record of it; empty where it is someone else's."""
        found: Mapping[str, Any] = self.metadata.get("saectl", {})
        return found

    @property
    def layer(self) -> int | None:
        """Layer, from 0, where known."""
        found = self.record.get("layer", self.metadata.get("layer"))
        return None if found is None else int(found)

    def exact(self, name: str) -> Tensor:
        """A tensor in float64 on the CPU, for algebra."""
        return self.tensors[name].detach().to("cpu", torch.float64)

    def plain(self, name: str) -> Tensor:
        """A tensor as it goes into a file: float32, contiguous, on the CPU."""
        return self.tensors[name].detach().to("cpu", torch.float32).contiguous()

    def centred_bias(self) -> Tensor:
        """[d_sae] float32: the encoder's bias for a peer that subtracts b_dec from its input.

        x W_enc + b_enc = (x - b_dec) W_enc + (b_enc + b_dec W_enc)."""
        return (self.exact("b_enc") + self.exact("b_dec") @ self.exact("W_enc")).float()


def raw_bias(W_enc: Tensor, b_enc: Tensor, b_dec: Tensor) -> Tensor:
    """[d_sae]: the bias for raw inputs, from one for inputs less b_dec; W_enc is [d_in, d_sae]."""
    return (b_enc.double() - b_dec.double() @ W_enc.double()).to(b_enc.dtype)


def folded(coder: Coder, where: Path) -> Coder:
    """`coder` with decoder rows of unit norm, n_i the old ones: W_enc_i, b_enc_i and threshold_i
    times n_i, W_dec_i / n_i.

    Raises StoreError where that would change what it computes: the k largest of latents that are
    scaled one by one are others.
    """
    norms = torch.linalg.vector_norm(coder.exact("W_dec"), dim=1)
    safe = torch.where(norms == 0, 1.0, norms)
    if bool(((safe - 1).abs() <= UNIT).all()):
        return coder
    if coder.arch == "topk" and float(safe.max() / safe.min()) > 1 + UNIT:
        raise StoreError(
            f"{where}: decoder rows have norms from {float(safe.min()):.3g} to "
            f"{float(safe.max()):.3g}; to fold them would change which k latents are the largest"
        )
    factors = {"W_enc": safe, "b_enc": safe, "threshold": safe, "W_dec": 1 / safe[:, None]}
    tensors = {
        name: (coder.exact(name) * factors[name] if name in factors else tensor).to(tensor.dtype)
        for name, tensor in coder.tensors.items()
    }
    return Coder(tensors, coder.arch, coder.k, coder.metadata)


def write_record(coder: Coder, path: Path) -> None:
    """What a peer's format has no place for: our name of the architecture, k, and the metadata,
    which says among much else which tokens count."""
    write_json(path, {"arch": coder.arch, "k": coder.k, "metadata": dict(coder.metadata)})


def read_record(path: Path) -> dict[str, Any]:
    """What `write_record` wrote; empty where there is none, as in another project's folder."""
    found = read_json(path)
    return found if isinstance(found, dict) else {}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, atomically; the same tensors give the same bytes."""
    write_bytes(path, safetensors.torch.save(dict(tensors)))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Raises StoreError when it is missing or damaged."""
    try:
        with explained(path, "read"):
            found: dict[str, Tensor] = safetensors.torch.load(path.read_bytes())
            return found
    except safetensors.SafetensorError as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def write_pt(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A state dict for peers that know no other: tensors alone, so that they too may read it with
    `weights_only`. The same tensors give the same bytes."""
    data = io.BytesIO()
    torch.save(dict(tensors), data)
    write_bytes(path, data.getvalue())


def read_pt(path: Path) -> dict[str, Tensor]:
    """A state dict, with `weights_only`: a file that holds anything but tensors is refused."""
    try:
        with explained(path, "read"):
            data = io.BytesIO(path.read_bytes())
        found = torch.load(data, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        first = str(error).strip().partition("\n")[0]
        raise StoreError(f"{path} is no file of tensors: {first}") from error
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise StoreError(f"{path} is no dict of tensors")
    return found


def require(tensors: Mapping[str, Tensor], names: Mapping[str, int], path: Path) -> None:
    """Raise StoreError unless all `names` are there, each with so many dimensions."""
    for name, dims in names.items():
        if name not in tensors:
            raise StoreError(f"{path} lacks {name!r}; it holds {sorted(tensors)}")
        if tensors[name].dim() != dims:
            raise StoreError(f"{path}: {name} has shape {tuple(tensors[name].shape)}")


def only_k(coder: Coder, name: str) -> str | None:
    """Why a format of plain top-k SAEs can't hold `coder`; None if it can."""
    if coder.arch != "topk":
        return f"{name} has no {coder.arch} SAEs, only topk"
    return None


def no_transcoder(coder: Coder, name: str) -> str | None:
    """Why a format of SAEs can't hold `coder`, if it is a transcoder."""
    if coder.transcodes:
        return f"{name} has no transcoders"
    return None
