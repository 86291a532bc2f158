"""SAELens' own core evaluation and ours agree on the same tokens, where definitions do.

Theirs reads the model through TransformerLens, ours through hooks of its own; the SAE is loaded by
either. Without a mask all is compared. With tokens ignored, their zero-ablation still wipes these,
so recovery is not the same thing there. Their KL counts the last position too; ours doesn't.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_cli.lm import masks
from sae_cli.lm.restart import Forwards
from sae_cli.lm.sites import find_tap
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import EvalSpec, MaskSpec
from sae_cli.stages.eval import batch
from sae_cli.stages.eval_place import Batch, Place, Site
from sae_cli.stages.scores import Scores

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
HOOK, LAYER, D_SAE, IGNORED = "blocks.1.hook_resid_post", 1, 48, 7


class Store:
    """What their functions ask of a store: the same tokens every time."""

    def __init__(self, tokens: Tensor) -> None:
        self._tokens = tokens

    def get_batch_tokens(self, _: int) -> Tensor:
        return self._tokens


@pytest.fixture(scope="module")
def model(build: Any) -> Any:
    return build("qwen3")


@pytest.fixture(scope="module")
def bridge(model: Any, words: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    place: Path = tmp_path_factory.mktemp("model")
    model.save_pretrained(place)
    words.save_pretrained(place)
    return TransformerBridge.boot_transformers(str(place), dtype=torch.float32)


def _sae(d: int) -> SAE:
    generator = torch.Generator().manual_seed(3)
    rows = torch.nn.functional.normalize(torch.randn(D_SAE, d, generator=generator), dim=1)
    return SAE(
        "relu_l1", 0.5 * rows.T.contiguous(), rows,
        torch.linspace(-2, 0.3, D_SAE), 0.1 * torch.randn(d, generator=generator),
    )  # fmt: skip


def _theirs(sae: SAE) -> Any:
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

    made = StandardSAE(StandardSAEConfig(sae.d_in, sae.d_sae, apply_b_dec_to_input=False))
    made.load_state_dict(sae.tensors())
    made.cfg.metadata.hook_name = HOOK
    made.cfg.metadata.hook_head_index = None
    return made


def _site(model: Any) -> Site:
    site = Site.__new__(Site)
    site.tap = find_tap(model, LAYER, "resid_post")
    site.mean, site.mask, site.limit = torch.zeros(site.tap.dim), MaskSpec(), None
    return site


@pytest.mark.parametrize("ignored", [[], [IGNORED]])
def test_core_numbers_agree(model: Any, bridge: Any, ignored: list[int], blocks_of: Tensor) -> None:
    from sae_lens.evals import get_recons_loss, get_sparsity_and_variance_metrics
    from sae_lens.training.activation_scaler import ActivationScaler

    site = _site(model)
    sae = _sae(site.tap.dim)
    theirs, scaler = _theirs(sae), ActivationScaler()
    counts = blocks_of != IGNORED if ignored else torch.ones_like(blocks_of, dtype=torch.bool)
    assert counts.all() != bool(ignored)
    with torch.no_grad():
        found, features = get_sparsity_and_variance_metrics(
            theirs, bridge, Store(blocks_of), scaler, 1, True, True, True, True, len(blocks_of),
            {}, ignored,
        )  # type: ignore[arg-type]  # fmt: skip
        loss = get_recons_loss(theirs, bridge, scaler, blocks_of, True, True, ignored)
        _, cache = bridge.run_with_cache(blocks_of, names_filter=[HOOK])
    site.mean = cache[HOOK][counts].mean(0)  # their per-token form centres on the batch
    ours = Scores(sae, Place(site, site, 1))
    reasons = np.where(counts.numpy(), 0, masks.SPECIAL).astype(np.uint8)
    with torch.inference_mode():
        batch(Forwards(model), [ours], Batch(blocks_of, reasons, torch.zeros_like(blocks_of)), True)
    got = {name: m["value"] for name, m in ours.record(EvalSpec())["metrics"].items()}

    wanted = {
        "ev.pooled_v1": found["explained_variance"],
        "ev.per_token_v1": found["explained_variance_legacy"],
        "mse_v1": found["mse"],
        "cosine_v1": found["cossim"],
        "l0_v1": found["l0"],
        "l1_v1": found["l1"],
        "norm_ratio_v1": found["l2_ratio"],
        "norm_in_v1": found["l2_norm_in"],
        "norm_out_v1": found["l2_norm_out"],
        "shrinkage_v1": found["relative_reconstruction_bias"],
    }
    here = counts[:, :-1]
    mean = {name: float(each[:, : here.shape[1]][here].mean()) for name, each in loss.items()}
    wanted |= {
        "ce.clean_v1": mean["ce_loss_without_sae"],
        "ce.spliced_v1": mean["ce_loss_with_sae"],
        "ce.delta_v1": mean["ce_loss_with_sae"] - mean["ce_loss_without_sae"],
        "kl.spliced_v1": mean["kl_div_with_sae"],
    }
    if not ignored:
        harm = mean["ce_loss_with_ablation"] - mean["ce_loss_without_sae"]
        wanted["ce.zero_v1"] = mean["ce_loss_with_ablation"]
        wanted["kl.zero_v1"] = mean["kl_div_with_ablation"]
        wanted["ce_recovered.zero_v1"] = (
            mean["ce_loss_with_ablation"] - mean["ce_loss_with_sae"]
        ) / harm
        assert harm > 0
    for name, value in wanted.items():
        assert got[name] == pytest.approx(value, rel=2e-4, abs=2e-6), name
    density = torch.tensor(features["feature_density"], dtype=torch.float64)
    torch.testing.assert_close(ours.rebuilt.density(), density, rtol=1e-5, atol=1e-7)
    assert 1 < got["l0_v1"] < D_SAE


@pytest.fixture(scope="module")
def blocks_of(model: Any) -> Tensor:
    """Token ids [12, 11], some of them IGNORED, the rest as the model expects them."""
    tokens = torch.randint(1, 97, (12, 11), generator=torch.Generator().manual_seed(5))
    tokens[:, 3] = IGNORED
    for at in range(4, 11):
        with torch.no_grad():
            tokens[:, at] = model(input_ids=tokens[:, :at]).logits[:, -1].argmax(1)
    return tokens
