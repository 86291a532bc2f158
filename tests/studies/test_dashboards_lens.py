"""What weights say of features: the lens is the model's own way from the last layer to logits."""

from __future__ import annotations

import pytest
import torch

from sae_cli.sae.base import SAE
from sae_cli.studies.dashboards.lens import lens, neighbours

NEVER = lambda where: None  # noqa: E731


def an_sae(n: int, d: int) -> SAE:
    torch.manual_seed(3)
    rows = torch.nn.functional.normalize(torch.randn(n, d), dim=1)
    return SAE("relu_l1", rows.T.contiguous(), rows, torch.zeros(n), torch.zeros(d))


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "gemma2", "olmo2", "neox", "phi"])
def test_the_lens_is_what_the_norm_and_the_unembedding_make_of_a_row(kind, build):
    """A row alone, scaled to the size that the norm divides by, goes through both unchanged."""
    model = build(kind)
    sae = an_sae(7, 32)
    up, down = lens(sae, model, 1, "resid_post", 5, NEVER)
    body = model.base_model
    norm = next(
        getattr(body, n) for n in ("norm", "ln_f", "final_layer_norm", "final_layernorm")
        if hasattr(body, n)
    )  # fmt: skip
    with torch.no_grad():
        there = norm(1e3 * sae.W_dec) - norm(-1e3 * sae.W_dec)
        logits = model.get_output_embeddings().weight @ there.T
    order = logits.T.argsort(dim=1, descending=True)
    assert up.ids.tolist() == order[:, :5].tolist()
    assert down.ids.tolist() == order.flip(1)[:, :5].tolist()
    assert (up.values[:, :-1] >= up.values[:, 1:]).all() and (up.values > down.values).all()


def test_a_row_of_attention_heads_goes_through_their_projection(build):
    model = build("qwen3")
    z = an_sae(6, 64)
    projection = model.model.layers[1].self_attn.o_proj.weight
    with torch.no_grad():
        rows = z.W_dec @ projection.T
    through = SAE("relu_l1", rows.T.contiguous(), rows, z.b_enc, torch.zeros(32))
    mine, plain = (
        lens(z, model, 1, "attn_z", 4, NEVER),
        lens(through, model, 1, "resid_mid", 4, NEVER),
    )
    assert mine[0].ids.tolist() == plain[0].ids.tolist()


def test_there_is_no_lens_in_front_of_an_mlp(build):
    assert "MLP" in lens(an_sae(4, 32), build("qwen3"), 1, "mlp_in", 4, NEVER)


def test_neighbours_are_the_nearest_rows_but_the_feature_itself():
    sae = an_sae(600, 16)  # more than one part
    found = neighbours(sae, 3, NEVER)
    for feature in (0, 255, 256, 599):
        cosines = sae.W_dec @ sae.W_dec[feature]
        order = [int(i) for i in cosines.argsort(descending=True) if i != feature][:3]
        assert found.ids[feature].tolist() == order
        assert found.values[feature] == pytest.approx(cosines[order].numpy(), abs=1e-6)
