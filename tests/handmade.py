"""SAEs that nobody trained, in folders as a release has them, and the embedded model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sae_cli.plan.pin import builtin_digest
from sae_cli.spec.base import identity
from sae_cli.spec.stages import MaskSpec, ModelSpec
from sae_cli.store.weights import config, save_sae
from sae_cli.studies.watch.live import Live, Reader

D = 64
"""The embedded model's width."""
TEXT = "please tell me how to attack the judge ."
CHAT = f"<|im_start|>user\n{TEXT}<|im_end|>\n"


@cache
def reader() -> Reader:
    """The embedded model. Don't change it."""
    return Reader(ModelSpec(builtin="tiny", digest=builtin_digest(), dtype="float32"), "cpu")


def own(layer: int = 2, site: str = "resid_post", **changes: Any) -> dict[str, Any]:
    """What such an SAE says of itself."""
    record = {
        "layer": layer,
        "site": site,
        "model": identity(reader().spec),
        "mask": identity(MaskSpec()),
    }
    return record | changes


def write_sae(
    folder: Path,
    record: Mapping[str, Any],
    *,
    arch: str = "relu_l1",
    d_sae: int = 24,
    d_in: int = D,
    skip: bool = False,
    seed: int = 0,
) -> Path:
    """An SAE of random weights. About half of its features are active at a token of `relu_l1`."""
    dice = torch.Generator().manual_seed(seed)
    d_out = D if "out_site" in record else d_in
    rows = torch.randn(d_sae, d_out, generator=dice)
    tensors = {
        "W_enc": torch.randn(d_in, d_sae, generator=dice) / 8,
        "W_dec": rows / rows.norm(dim=1, keepdim=True),
        "b_enc": torch.randn(d_sae, generator=dice) / 8,
        "b_dec": torch.randn(d_out, generator=dice) / 8,
    }
    if arch == "jumprelu":
        tensors["threshold"] = torch.rand(d_sae, generator=dice)
    if skip:
        tensors["W_skip"] = torch.randn(d_out, d_in, generator=dice) / 8
    out = record.get("out_site")
    cfg = config(
        tensors,
        arch=arch,
        k=5 if arch == "topk" else None,
        model_name="tiny",
        hook_name="somewhere",
        hf_hook_name="somewhere",
        hook_name_out=None if out is None else "elsewhere",
        context_size=128,
        provenance=record,
    )
    save_sae(folder, tensors, cfg)
    return folder


def live(
    folder: Path, record: Mapping[str, Any] | None = None, limit: float | None = None, **how: Any
) -> Live:
    """One of them, looking on at the embedded model."""
    record = own() if record is None else record
    return Live(reader(), write_sae(folder, record, **how), record, limit)
