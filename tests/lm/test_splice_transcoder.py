"""A transcoder's prediction goes where its target was, made from what the clean pass read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sae_cli.lm.sites import find_tap
from sae_cli.sae.base import SAE
from sae_cli.stages.eval import _batch
from sae_cli.stages.metrics import LossMeter, ReconstructionMeter, splice_metrics


def linear(weight: torch.Tensor) -> SAE:
    """A transcoder with `weight` as its skip, whose latents never fire."""
    d_out, d_in = weight.shape
    tensors = {
        "W_enc": torch.zeros(d_in, 8), "W_dec": torch.eye(d_out)[:1].repeat(8, 1),
        "b_enc": -torch.ones(8), "b_dec": torch.zeros(d_out), "W_skip": weight,
    }  # fmt: skip
    return SAE.from_tensors(tensors, "topk", 1)


def test_an_exact_transcoder_recovers_all_and_none_nothing(
    build: Any, blocks: torch.Tensor
) -> None:
    """W_O is what lies between attn_z and attn_out."""
    model = build("qwen3")
    read, site = (place(model, name) for name in ("attn_z", "attn_out"))
    weight = read.tap.module.weight.detach()
    exact, none = (judged(linear(w)) for w in (weight, torch.zeros_like(weight)))
    reasons = np.zeros(tuple(blocks.shape), np.uint8)
    _batch(model, read, site, [exact, none], blocks, reasons, True)
    fvu = exact.rebuilt.result()["fvu.pooled_v1"].value
    assert fvu is not None and fvu < 1e-9
    found = [
        splice_metrics(each.loss, site.zero_loss, site.mean_loss)["ce_recovered.zero_v1"].value
        for each in (exact, none)
    ]
    assert found[0] is not None and abs(found[0] - 1.0) < 1e-3
    assert found[1] == 0.0
    assert not model._forward_hooks and not read.tap.module._forward_pre_hooks


def place(model: Any, name: Any) -> Any:
    tap = find_tap(model, 1, name)
    return SimpleNamespace(
        tap=tap, mean=torch.zeros(tap.dim), zero_loss=LossMeter(), mean_loss=LossMeter(),
        keep=lambda acts, reasons: torch.ones(acts.shape[:-1], dtype=torch.bool),
    )  # fmt: skip


def judged(sae: SAE) -> Any:
    meter = ReconstructionMeter(sae.d_out, sae.d_sae, torch.zeros(sae.d_out))
    return SimpleNamespace(sae=sae, rebuilt=meter, loss=LossMeter())
