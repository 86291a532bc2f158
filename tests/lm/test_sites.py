"""Every site is what its name says, checked against sums and modules of the model itself."""

from __future__ import annotations

import pytest
import torch

from sae_cli.errors import ModelError
from sae_cli.lm.capture import capture
from sae_cli.lm.check import check_layer
from sae_cli.lm.names import hook_name
from sae_cli.lm.sites import available_sites, find_tap

SEQUENTIAL = ["qwen3", "llama", "gpt2", "neox", "gemma2", "olmo2", "glm4"]
PARALLEL = ["neox-parallel", "phi"]


def activations(model, blocks, layer):
    sites = available_sites(model, layer)
    found = capture(model, blocks, [find_tap(model, layer, site) for site in sites])
    return dict(zip(sites, found, strict=True))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_the_residual_stream_is_the_sum_of_what_it_receives(build, blocks, kind):
    model = build(kind)
    for layer in range(3):
        x = activations(model, blocks, layer)
        close(x["resid_mid"], x["resid_pre"] + x["attn_out"])
        close(x["resid_post"], x["resid_mid"] + x["mlp_out"])


@pytest.mark.parametrize("kind", PARALLEL)
def test_side_by_side_parts_add_up_and_have_no_middle(build, blocks, kind):
    model = build(kind)
    x = activations(model, blocks, 1)
    close(x["resid_post"], x["resid_pre"] + x["attn_out"] + x["mlp_out"])
    with pytest.raises(ModelError, match="no middle") as caught:
        find_tap(model, 1, "resid_mid")
    assert "resid_pre, resid_post, attn_out, attn_z, mlp_in, mlp_out" in str(caught.value)


@pytest.mark.parametrize("kind", SEQUENTIAL + PARALLEL)
def test_the_residual_stream_is_the_one_that_the_model_reports(build, blocks, kind):
    model = build(kind)
    hidden = model(blocks, output_hidden_states=True).hidden_states
    for layer in range(3):
        x = activations(model, blocks, layer)
        close(x["resid_pre"], hidden[layer])
        if layer < 2:
            close(x["resid_post"], hidden[layer + 1])


@pytest.mark.parametrize(
    ("kind", "layers", "norm", "projection"),
    [
        ("qwen3", "model.layers", "post_attention_layernorm", "self_attn.o_proj"),
        ("llama", "model.layers", "post_attention_layernorm", "self_attn.o_proj"),
        ("gpt2", "transformer.h", "ln_2", "attn.c_proj"),
        ("neox", "gpt_neox.layers", "post_attention_layernorm", "attention.dense"),
    ],
)
def test_parts_give_the_same_when_called_by_hand(build, blocks, kind, layers, norm, projection):
    model = build(kind)
    for layer in (0, 2):
        x = activations(model, blocks, layer)
        block = model.get_submodule(f"{layers}.{layer}")
        close(x["attn_out"], block.get_submodule(projection)(x["attn_z"]))
        close(x["mlp_in"], block.get_submodule(norm)(x["resid_mid"]))
        close(x["mlp_out"], block.mlp(x["mlp_in"]))


def test_norms_on_the_output_belong_to_the_output(build, blocks):
    model = build("gemma2")
    x = activations(model, blocks, 1)
    block = model.model.layers[1]
    close(x["mlp_in"], block.pre_feedforward_layernorm(x["resid_mid"]))
    close(x["attn_out"], block.post_attention_layernorm(block.self_attn.o_proj(x["attn_z"])))
    close(x["mlp_out"], block.post_feedforward_layernorm(block.mlp(x["mlp_in"])))


def test_attention_before_its_projection_has_its_own_width(build):
    model = build("qwen3")
    assert find_tap(model, 0, "attn_z").dim == 64
    assert find_tap(model, 0, "attn_out").dim == 32
    assert find_tap(build("gpt2"), 0, "attn_z").dim == 32


def test_a_tap_knows_its_name_in_the_model(build):
    model = build("qwen3")
    assert find_tap(model, 2, "resid_post").name == "model.layers.2"
    assert find_tap(model, 2, "mlp_out").name == "model.layers.2.mlp"
    assert find_tap(model, 2, "attn_z").name == "model.layers.2.self_attn.o_proj"
    assert find_tap(build("gpt2"), 1, "resid_mid").name == "transformer.h.1.ln_2"
    assert find_tap(model, 2, "mlp_in").where == "input"


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_out_of_range_is_an_error_with_the_range(build, layer):
    with pytest.raises(ModelError, match=rf"layers 0 to 2, not {layer}"):
        find_tap(build("llama"), layer, "resid_post")


@pytest.mark.parametrize("kind", SEQUENTIAL + PARALLEL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_check_passes_on_models_that_are_understood(build, kind, dtype):
    check_layer(build(kind, dtype), 1)


def test_the_check_refuses_a_model_that_adds_the_residual_inside_its_parts(build):
    with pytest.raises(ModelError, match="not wired as its module names say"):
        check_layer(build("bloom"), 1)


def test_sites_have_transformer_lens_names():
    assert hook_name(3, "resid_post") == "blocks.3.hook_resid_post"
    assert hook_name(0, "attn_z") == "blocks.0.attn.hook_z"
    assert hook_name(12, "mlp_in") == "blocks.12.mlp.hook_in"
    assert hook_name(1, "mlp_out") == "blocks.1.hook_mlp_out"
