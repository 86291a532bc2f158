"""A forward that begins at the layer that is edited has the very bits of a whole one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen3Config

from sae_cli.lm.capture import capture
from sae_cli.lm.load import load_model
from sae_cli.lm.restart import Forwards, skipped, spot
from sae_cli.lm.sites import Tap, available_sites, find_tap
from sae_cli.lm.splice import forward_logits, masked
from sae_cli.spec.stages import ModelSpec

KINDS = ("qwen3", "llama", "gpt2", "neox", "neox-parallel", "gemma2", "olmo2", "glm4", "phi")


@pytest.fixture(scope="module")
def embedded() -> Any:
    return load_model(ModelSpec(builtin="tiny"), torch.device("cpu"))


@pytest.fixture(scope="module")
def wide() -> Any:
    """Qwen3 as it is built, five layers of it, in bfloat16, with another attention in some."""
    torch.manual_seed(3)
    config = Qwen3Config(
        vocab_size=301, hidden_size=96, intermediate_size=160, num_hidden_layers=5,
        num_attention_heads=6, num_key_value_heads=2, head_dim=32, max_position_embeddings=128,
        use_sliding_window=True, sliding_window=8, max_window_layers=2, tie_word_embeddings=True,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


def every_tap(model: Any) -> list[Tap]:
    layers = range(model.config.num_hidden_layers)
    return [find_tap(model, i, site) for i in layers for site in available_sites(model, i)]


def text(model: Any, shape: tuple[int, int] = (3, 24)) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, model.config.vocab_size, shape, generator=generator)


def the_same(model: Any) -> Forwards:
    """Checks every site of every layer against whole forwards, on two batches."""
    taps, forwards = every_tap(model), Forwards(model)
    for blocks in (text(model), text(model)[:2].flip(1)):
        keep = torch.rand(blocks.shape, generator=torch.Generator().manual_seed(2)) < 0.8
        clean = forwards.clean(blocks, taps, taps)
        assert torch.equal(clean.logits, forward_logits(model, blocks))
        for tap, x in zip(taps, capture(model, blocks, taps), strict=True):
            assert torch.equal(clean.acts[spot(tap)], x), tap.name
            for edit in (torch.zeros_like, lambda x: 0.5 * x.float() + 0.1, lambda x: x):
                only = masked(edit, keep)
                whole = forward_logits(model, blocks, tap=tap, edit=only)
                assert torch.equal(forwards.edited(clean, tap, only), whole), (tap.name, tap.site)
    return forwards


@pytest.mark.parametrize("name", ["embedded", "wide"])
def test_every_site_of_every_layer_and_few_layers_are_run(name, request):
    model = request.getfixturevalue(name)
    made = the_same(model).made
    layers, edits = model.config.num_hidden_layers, 2 * 3 * len(every_tap(model))
    assert (made.clean, made.edited, made.checks) == (2, edits, layers)
    least = 2 * 3 * sum(layers - skipped(tap) for tap in every_tap(model))
    assert made.layers == least < made.layers_whole == layers * edits
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any("forward" in m.__dict__ for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_other_builds_too(build, kind, dtype):
    made = the_same(build(kind, dtype)).made
    assert made.layers < made.layers_whole


class Looking(nn.Module):
    """A layer that adds what another layer's MLP gave to its own output, or else `without`."""

    def __init__(self, layer: nn.Module, other: nn.Module, without: Tensor | None) -> None:
        super().__init__()
        self.self_attn, self.mlp, self.layer = layer.self_attn, layer.mlp, layer
        self.post_attention_layernorm = layer.post_attention_layernorm
        self.seen: dict[str, Tensor] = {}
        self.without = without
        other.register_forward_hook(lambda _, __, output: self.seen.update(x=output))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = self.layer(x, *args, **kwargs)
        return found + self.seen.pop("x", self.without)


@pytest.mark.parametrize("without", [None, torch.zeros(1)], ids=["raises", "goes on"])
def test_a_model_that_looks_past_a_layers_input_runs_whole(without: Tensor | None) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    layers = model.model.layers
    layers[2] = Looking(layers[2], layers[0].mlp, without)
    taps = [find_tap(model, layer, "mlp_out") for layer in (0, 1, 3)]
    blocks, forwards = text(model), Forwards(model)
    clean = forwards.clean(blocks, taps, taps)
    ran: list[int] = []
    for tap in taps:
        whole = forward_logits(model, blocks, tap=tap, edit=torch.zeros_like)
        before = forwards.made.layers
        assert torch.equal(forwards.edited(clean, tap, torch.zeros_like), whole)
        ran.append(forwards.made.layers - before)
    assert ran == [4, 4, 1], "behind the layer that looks, one can begin; before it, one can't"


def test_a_model_that_writes_into_a_tensor_later_is_read_as_it_was(build: Callable[..., Any]):
    model = build("qwen3")

    def louder(_: nn.Module, args: tuple[Tensor]) -> None:
        args[0].mul_(1.5)

    hook = model.model.layers[1].register_forward_pre_hook(louder)
    try:
        made = the_same(model).made
    finally:
        hook.remove()
    assert made.layers < made.layers_whole
