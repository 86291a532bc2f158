"""A transcoder's prediction goes where its target was, made from what the clean pass read."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from sae_cli.lm.restart import Forwards
from sae_cli.lm.sites import find_tap
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import MaskSpec
from sae_cli.stages.eval import batch
from sae_cli.stages.eval_place import Batch, Place, Site
from sae_cli.stages.losses import splice_metrics
from sae_cli.stages.scores import Scores


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
    place = Place(site(model, "attn_z"), site(model, "attn_out"), documents=1)
    weight = cast(torch.Tensor, place.read.tap.module.weight).detach()
    exact, none = (Scores(linear(w), place) for w in (weight, torch.zeros_like(weight)))
    some = Batch(blocks, np.zeros(tuple(blocks.shape), np.uint8), torch.zeros_like(blocks))
    batch(Forwards(model), [exact, none], some, True)
    fvu = exact.rebuilt.result()["fvu.pooled_v1"].value
    assert fvu is not None and fvu < 1e-9
    found = [
        splice_metrics(each.losses.kept, place.zero_loss.kept, place.mean_loss.kept)[
            "ce_recovered.zero_v1"
        ].value
        for each in (exact, none)
    ]
    assert found[0] is not None and abs(found[0] - 1.0) < 1e-3
    assert found[1] == 0.0
    assert not model._forward_hooks and not place.read.tap.module._forward_pre_hooks


def site(model: Any, name: Any) -> Site:
    """A site where every token counts, without an array."""
    made = Site.__new__(Site)
    made.tap = find_tap(model, 1, name)
    made.mean, made.mask, made.limit = torch.zeros(made.tap.dim), MaskSpec(), None
    return made
