"""One forward for every tap, no further than needed, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
import transformers

from sae_cli.lm.capture import Capture, capture
from sae_cli.lm.sites import available_sites, find_tap

KINDS = ["qwen3", "llama", "gpt2", "neox", "neox-parallel", "gemma2"]


def every_tap(model):
    return [find_tap(model, n, s) for n in range(3) for s in available_sites(model, n)]


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_a_tap_gives_the_same_bits_alone_and_in_company(build, blocks, kind):
    model = build(kind)
    taps = every_tap(model)
    together = capture(model, blocks, taps)
    for tap, tensor in zip(taps, together, strict=True):
        assert tensor.shape == (3, 11, tap.dim)
        (alone,) = capture(model, blocks, [tap])
        assert torch.equal(alone, tensor), tap.name


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_runs_behind_the_last_tap(build, blocks, kind):
    model = build(kind)
    began: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: began.append(name))
        for name, module in model.named_modules()
    ]
    try:
        taps = [find_tap(model, 0, "mlp_out"), find_tap(model, 1, "attn_z")]
        capture(model, blocks, taps)
    finally:
        for handle in handles:
            handle.remove()
    layers = find_tap(model, 0, "resid_post").name.removesuffix(".0")
    assert began[-1] == taps[1].name
    assert f"{layers}.1" in began
    assert f"{layers}.2" not in began
    assert find_tap(model, 1, "mlp_out").name not in began
    assert not any("head" in name or "embed_out" in name for name in began)


def test_the_last_layer_is_captured_without_final_norm_and_logits(build, blocks):
    model = build("qwen3")
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name, module in (("norm", model.model.norm), ("head", model.lm_head))
    ]
    (last,) = capture(model, blocks, [find_tap(model, 2, "resid_post")])
    for handle in handles:
        handle.remove()
    assert ran == []
    close = torch.testing.assert_close
    close(model.lm_head(model.model.norm(last)), model(blocks).logits, rtol=1e-5, atol=1e-5)


def test_no_key_value_cache_is_made(build, blocks):
    model = build("llama")
    seen = {}
    hook = model.model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    capture(model, blocks, [find_tap(model, 0, "resid_post")])
    hook.remove()
    assert seen["past_key_values"] is None


def test_hooks_are_gone_afterwards_also_behind_an_error(build, blocks):
    model = build("gpt2")
    before = hooks_on(model)
    capture(model, blocks, every_tap(model))
    assert hooks_on(model) == before
    with pytest.raises(IndexError):
        capture(model, blocks + 97, every_tap(model))
    assert hooks_on(model) == before


def test_the_same_tap_may_be_asked_for_twice_and_no_tap_is_no_forward(build, blocks):
    model = build("qwen3")
    tap = find_tap(model, 1, "resid_pre")
    one, two = capture(model, blocks, [tap, tap])
    assert torch.equal(one, two)
    assert capture(model, blocks, []) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_what_a_copy_made_at_once_would_be(build, blocks, kind):
    model = build(kind)
    taps = every_tap(model)
    copied = Capture(model, taps)
    copied._copied = set(range(len(taps)))
    for one, other in zip(capture(model, blocks, taps), copied(blocks), strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()


def test_tensors_that_the_model_never_writes_into_are_not_copied(build, blocks):
    model = build("qwen3")
    reader = Capture(model, every_tap(model))
    reader(blocks)
    assert reader._copied == set()
    end, start = (find_tap(model, n, s) for n, s in ((0, "resid_post"), (1, "resid_pre")))
    one, same = capture(model, blocks, [end, start])
    assert one.data_ptr() == same.data_ptr()


def test_a_tensor_that_the_model_writes_into_later_is_copied_in_time(build, blocks):
    model = build("qwen3")
    early, late = find_tap(model, 0, "resid_post"), find_tap(model, 2, "resid_post")
    writes = model.model.layers[1].register_forward_pre_hook(lambda _, args: args[0].mul_(2))
    try:
        (wanted,) = capture(model, blocks, [early])
        wanted = wanted.clone()
        reader = Capture(model, [early, late])
        for _ in range(2):
            found, _ = reader(blocks)
            assert torch.equal(found, wanted)
        assert reader._copied == {0}
    finally:
        writes.remove()


def test_falcon_adds_into_its_own_mlp_and_is_still_read_right(blocks):
    config = transformers.FalconConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    mlp, post = find_tap(model, 0, "mlp_out"), find_tap(model, 0, "resid_post")
    (alone,) = capture(model, blocks, [mlp])
    alone = alone.clone()
    reader = Capture(model, [mlp, post])
    assert torch.equal(reader(blocks)[0], alone)
    assert reader._copied == {0}


def test_activations_come_in_the_dtype_of_the_model(build, blocks):
    model = build("qwen3", torch.bfloat16)
    (found,) = capture(model, blocks, [find_tap(model, 1, "mlp_in")])
    assert found.dtype == torch.bfloat16
    assert not found.requires_grad
