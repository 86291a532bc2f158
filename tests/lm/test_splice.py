"""What is put back into the forward arrives where it should, and only there."""

from __future__ import annotations

import pytest
import torch

from sae_cli.lm.capture import capture
from sae_cli.lm.sites import available_sites, find_tap
from sae_cli.lm.splice import editing, forward_logits, masked

KINDS = ["qwen3", "llama", "gpt2", "neox", "neox-parallel", "gemma2", "olmo2", "glm4", "phi"]


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_edit_that_changes_nothing_gives_the_clean_logits_bit_for_bit(
    build, blocks, kind, dtype
):
    model = build(kind, dtype)
    clean = forward_logits(model, blocks)
    assert clean.dtype == torch.float32
    assert clean.shape == (3, 11, 97)
    for layer in range(3):
        for site in available_sites(model, layer):
            tap = find_tap(model, layer, site)
            again = forward_logits(model, blocks, tap=tap, edit=lambda x: x.float().clone())
            assert torch.equal(again, clean), tap.name


@pytest.mark.parametrize("kind", KINDS)
def test_every_site_of_every_layer_reaches_the_logits(build, blocks, kind):
    model = build(kind)
    clean = forward_logits(model, blocks)
    for layer in range(3):
        for site in available_sites(model, layer):
            tap = find_tap(model, layer, site)
            changed = forward_logits(model, blocks, tap=tap, edit=torch.zeros_like)
            assert (changed - clean).abs().max() > 1e-3, tap.name


def test_zero_behind_the_last_layer_leaves_what_norm_and_head_make_of_zero(build, blocks):
    model = build("gpt2")
    tap = find_tap(model, 2, "resid_post")
    logits = forward_logits(model, blocks, tap=tap, edit=torch.zeros_like)
    close(logits, model.lm_head(model.transformer.ln_f(torch.zeros(3, 11, 32))))


def test_edits_of_the_last_layer_match_a_computation_by_hand(build, blocks):
    model = build("qwen3")
    layer, finish = model.model.layers[2], lambda x: model.lm_head(model.model.norm(x))
    names = ("resid_mid", "attn_z", "resid_pre", "mlp_out")
    taps = {site: find_tap(model, 2, site) for site in names}
    x = dict(zip(taps, capture(model, blocks, list(taps.values())), strict=True))

    def edit(a):
        return 0.5 * a + 0.1

    def after_mid(mid):
        return finish(mid + layer.mlp(layer.post_attention_layernorm(mid)))

    wanted = {
        "mlp_out": finish(x["resid_mid"] + edit(x["mlp_out"])),
        "resid_mid": after_mid(edit(x["resid_mid"])),
        "attn_z": after_mid(x["resid_pre"] + layer.self_attn.o_proj(edit(x["attn_z"]))),
    }
    for site, logits in wanted.items():
        close(forward_logits(model, blocks, tap=taps[site], edit=edit), logits)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox", "gemma2", "olmo2"])
def test_editing_the_middle_equals_editing_what_attention_adds(build, blocks, kind):
    model = build(kind)
    shift = torch.linspace(-1, 1, 32)
    by_middle = forward_logits(
        model, blocks, tap=find_tap(model, 1, "resid_mid"), edit=lambda x: x + shift
    )
    by_attention = forward_logits(
        model, blocks, tap=find_tap(model, 1, "attn_out"), edit=lambda x: x + shift
    )
    close(by_middle, by_attention)


def test_an_edit_of_one_layers_end_is_an_edit_of_the_next_ones_start(build, blocks):
    model = build("neox-parallel")
    end = forward_logits(model, blocks, tap=find_tap(model, 0, "resid_post"), edit=torch.tanh)
    start = forward_logits(model, blocks, tap=find_tap(model, 1, "resid_pre"), edit=torch.tanh)
    assert torch.equal(end, start)


def test_masked_positions_keep_their_originals_exactly(build, blocks):
    model = build("qwen3")
    tap = find_tap(model, 2, "mlp_out")
    clean = forward_logits(model, blocks)

    def poison(x):
        return torch.full_like(x, torch.nan)

    nowhere = torch.zeros(3, 11, dtype=torch.bool)
    assert torch.equal(forward_logits(model, blocks, tap=tap, edit=masked(poison, nowhere)), clean)
    one = nowhere.clone()
    one[1, 6] = True
    found = forward_logits(model, blocks, tap=tap, edit=masked(poison, one))
    assert torch.equal(found[~one], clean[~one])
    assert found[one].isnan().all()


def test_an_edit_of_one_position_leaves_the_earlier_ones_alone(build, blocks):
    model = build("qwen3")
    clean = forward_logits(model, blocks)
    one = torch.zeros(3, 11, dtype=torch.bool)
    one[1, 6] = True
    edit = masked(lambda x: x + 100.0, one)
    found = forward_logits(model, blocks, tap=find_tap(model, 0, "resid_post"), edit=edit)
    assert torch.equal(found[[0, 2]], clean[[0, 2]])
    assert torch.equal(found[1, :6], clean[1, :6])
    assert (found[1, 6:] != clean[1, 6:]).any(dim=-1).all()


def test_hooks_are_gone_afterwards_also_behind_an_error(build, blocks):
    model = build("llama")
    before = hooks_on(model)

    def fail(_):
        raise ZeroDivisionError

    for site in available_sites(model, 0):
        with pytest.raises(ZeroDivisionError):
            forward_logits(model, blocks, tap=find_tap(model, 0, site), edit=fail)
    assert hooks_on(model) == before


def test_generation_inside_the_context_is_steered(build, blocks):
    model = build("qwen3")
    tap = find_tap(model, 2, "resid_post")
    token = 42
    towards = 1e4 * model.lm_head.weight[token] / model.model.norm.weight
    with editing(model, tap, lambda x: x + towards):
        out = model.generate(
            blocks, attention_mask=torch.ones_like(blocks), max_new_tokens=4, do_sample=False
        )
    steered = model.lm_head(model.model.norm(towards)).argmax()
    assert (out[:, 11:] == steered).all()
