"""What jobs cost, against the model itself, against what torch counts, and worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from sae_cli.lm.device import pick_device
from sae_cli.lm.flops import forward_flops
from sae_cli.lm.load import load_model
from sae_cli.plan import cost as counted
from sae_cli.plan.cost import DENSE, cost, layer_flops, logits_flops, step_flops
from sae_cli.plan.jobs import coalesce
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.presets import PRESETS, ModelFacts
from sae_cli.spec.stages import ModelSpec
from sae_cli.spec.train import ARCHITECTURES

GRID = """\
name: grid
model: MODEL
data: {tokens: 1000, heldout_tokens: 300, context: 64}
train: {width: 512, num_tokens: 5000, batch_size: 1024}
matrix:
  layer: [0, 2]
  site: [resid_post, attn_z]
  k: [4, 8]
"""
QWEN = {
    "vocab_size": 100, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 5,
    "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16,
}  # fmt: skip


def facts_of(config):
    found = ModelFacts.from_config(config.to_dict())
    assert found is not None
    return found


def on_paper(config):
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def test_layers_of_the_embedded_model_cost_what_its_modules_do():
    model = load_model(ModelSpec(builtin="tiny", dtype="float32"), pick_device("cpu"))
    facts = PRESETS["tiny"].facts
    for layer in range(4):
        for context in (2, 128):
            assert counted.forward_flops(facts, layer + 1, context) == forward_flops(
                model, layer, context
            )
    assert logits_flops(facts) == 2 * model.get_output_embeddings().weight.numel()


@pytest.mark.parametrize(
    "config",
    [
        transformers.Qwen3Config(**QWEN),
        transformers.LlamaConfig(**QWEN),
        transformers.GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=50),
        transformers.GPTNeoXConfig(
            num_hidden_layers=2, hidden_size=32, num_attention_heads=4, intermediate_size=96,
            vocab_size=60,
        ),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_layers_cost_what_the_modules_of_a_model_made_from_the_config_do(config):
    facts, model = facts_of(config), on_paper(config)
    for layer in range(facts.n_layers):
        wanted = forward_flops(model, layer, 96)
        assert wanted is not None
        assert counted.forward_flops(facts, layer + 1, 96) == wanted
    assert logits_flops(facts) == 2 * model.get_output_embeddings().weight.numel()


@pytest.mark.parametrize(
    ("name", "matrices"),
    [("qwen3-1.7b", 50_331_648), ("qwen3-4b", 100_925_440), ("qwen3-8b", 192_937_984)],
)
def test_preset_layers_by_hand(name, matrices):
    facts = PRESETS[name].facts
    assert layer_flops(facts, 1024) == 2 * matrices + 2 * facts.n_heads * 128 * 1025
    assert logits_flops(facts) == 2 * facts.d_model * 151_936


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "something_new", None])
def test_a_kind_of_model_that_is_not_known_is_not_guessed_at(kind):
    found = ModelFacts.from_config({**QWEN, "model_type": kind})
    assert found is not None and layer_flops(found, 64) is None


@pytest.mark.parametrize("field", ["intermediate", "n_kv_heads", "gated"])
def test_a_size_that_is_missing_leaves_the_layer_unknown(field):
    known = PRESETS["tiny"].facts
    assert layer_flops(known, 64) is not None
    assert layer_flops(dataclasses.replace(known, **{field: None}), 64) is None


@pytest.mark.parametrize("arch", DENSE)
def test_dense_steps_cost_what_torch_counts(arch):
    """The products of one whole step, early, when most latents are active."""
    spec = ARCHITECTURES[arch](arch=arch, width=64, batch_size=32, seed=1)
    trainer = Trainer(spec, 16, torch.zeros(16), 1.0, "cpu", 10)
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(3))
    trainer.step(x)  # the first step also sets thresholds

    def linear(rows, weight, *_, **__):
        return 2 * rows[0] * rows[1] * weight[0]

    def added(_, left, right, **__):
        return 2 * left[0] * left[1] * right[1]

    more = {torch.ops.mkldnn._linear_pointwise: linear, torch.ops.aten.addmm_: added}
    counter = FlopCounterMode(display=False, custom_mapping=more)
    with counter:
        trainer.step(x)
    assert trainer.log().get("sparse", 0.0) == 0.0
    probe = 2 * 32 * 16 * 64 if arch in ("relu_l1", "jumprelu") else 0  # which way to go
    assert counter.get_total_flops() == 32 * step_flops(spec, 16, 16) + probe


def test_every_architecture_that_counts_by_k_has_one():
    for arch, kind in ARCHITECTURES.items():
        assert ("k" in kind.model_fields) != (arch in DENSE), arch


def test_steps_that_touch_k_latents_by_hand():
    topk = ARCHITECTURES["topk"](arch="topk", width=4096, k=16)
    assert step_flops(topk, 256, 256) == 2 * 256 * 4096 + 2 * 16 * 4 * 256
    over = ARCHITECTURES["topk"](arch="topk", width=8, k=8, out_site="mlp_out", skip=True)
    assert step_flops(over, 6, 4) == 2 * 6 * 8 + 2 * 8 * (6 + 12) + 4 * 6 * 4


def test_a_forward_counts_once_for_all_that_share_it(graph):
    made = graph(GRID.replace("MODEL", "tiny"))
    (capture,) = [cost(job) for job in coalesce(made.of("cache"))]
    facts, tokens = PRESETS["tiny"].facts, 16 * 64
    assert capture.tokens == tokens and len(capture.stages) == 4
    assert capture.forward == tokens * 3 * layer_flops(facts, 64)  # layers 0, 1 and 2
    assert capture.arithmetic == 0


def test_a_pass_of_trainings_is_the_sum_of_its_steps(graph):
    made = graph(GRID.replace("MODEL", "tiny"))
    found = {job.stages[0].slug: cost(job) for job in coalesce(made.of("train"))}
    one = found["tiny.L0.attn_z.topk.w512.k4"]
    steps = 5 * 1024  # 5000 tokens in whole batches
    dense, sparse = 2 * 128 * 512, 2 * 4 * 128
    assert one.tokens == 2 * steps and one.forward == 0
    assert one.arithmetic == steps * (2 * dense + (4 + 8) * sparse)


def test_an_evaluation_is_a_clean_pass_and_edited_ones_from_their_layers_on(graph):
    made = graph(GRID.replace("MODEL", "tiny"))
    one, logits = layer_flops(PRESETS["tiny"].facts, 64), 2 * 64 * 744
    (first,) = [cost(job) for job in coalesce(made.of("eval"))]
    assert first.tokens == 5 * 64  # 300 held-out tokens in whole contexts
    # two ablations and two SAEs at resid_post and attn_z of layers 0 and 2
    left = [4 - 1, 4 - 0, 4 - 3, 4 - 2]
    assert first.forward == 5 * 64 * (4 * one + logits + 4 * sum(n * one + logits for n in left))
    both = 2 * (64 + 64 + 128 + 128)  # encoder and decoder of a place, twice
    assert first.arithmetic == 5 * 64 * 2 * 2 * (2 * both * 512)
    plain = graph(GRID.replace("MODEL", "tiny"), "eval.splice=false", "eval.tokens=100")
    (first,) = [cost(job) for job in coalesce(plain.of("eval"))]
    assert first.tokens == 2 * 64 and first.forward == 2 * 64 * (4 * one + logits)


def test_controls_are_a_clean_pass_and_one_for_each_of_each_sae(graph):
    text = GRID.replace("MODEL", "tiny").replace("site: [resid_post, attn_z]", "site: [resid_post]")
    sets = {"plain": (), "more": ("eval.controls=[neurons,pca]",)}
    jobs = {name: coalesce(graph(text, *given).of("eval"))[0] for name, given in sets.items()}
    saes, plain, more = len(jobs["plain"].stages), cost(jobs["plain"]), cost(jobs["more"])
    one, logits = layer_flops(PRESETS["tiny"].facts, 64), 2 * 64 * 744
    whole, edited = 4 * one + logits, (3 * one + logits) + (1 * one + logits)
    assert plain.forward == plain.tokens * (whole + 4 * edited)
    assert more.forward == plain.tokens * (2 * whole + 8 * edited)
    assert more.arithmetic - plain.arithmetic == saes * plain.tokens * 2 * 2 * 64 * (2 * 64)


def test_longer_contexts_are_the_same_on_the_text_joined(graph):
    text = GRID.replace("MODEL", "tiny").replace("site: [resid_post, attn_z]", "site: [resid_post]")
    sets = {"plain": (), "more": ("eval.contexts=[128, 192]",)}
    jobs = {name: coalesce(graph(text, *given).of("eval"))[0] for name, given in sets.items()}
    plain, more = cost(jobs["plain"]), cost(jobs["more"])
    texts = [(64, 5 * 64), (128, 2 * 128), (192, 192)]  # 5 blocks, joined
    assert more.tokens == sum(n for _, n in texts)
    logits, facts = 2 * 64 * 744, PRESETS["tiny"].facts
    wanted = 0
    for context, n in texts:
        one = layer_flops(facts, context)
        edited = (3 * one + logits) + (1 * one + logits)
        wanted += n * (4 * one + logits + 4 * edited)
    assert more.forward == wanted
    assert more.arithmetic * plain.tokens == plain.arithmetic * more.tokens


def test_what_is_not_known_is_none(graph):
    text = GRID.replace("MODEL", "org/name").replace("site: [resid_post, attn_z]", "seed: [1]")
    made = graph(text)
    for job in coalesce(made.stages):
        found = cost(job)
        if found.kind in ("cache", "eval"):
            assert found.forward is None
        if found.kind in ("train", "eval"):
            assert found.arithmetic is None
        assert found.tokens > 0 or found.kind == "release"
