"""FLOPs per token against numbers worked out by hand, and peaks by the names of devices."""

from __future__ import annotations

import pytest
import torch
import transformers

from sae_cli.lm.flops import forward_flops, peak_flops, peak_of


def on_paper(kind, **fields):
    """A model without weights in memory."""
    with torch.device("meta"):
        config = getattr(transformers, kind)(**fields)
        return transformers.AutoModelForCausalLM.from_config(config)


def test_qwen3_4b_by_hand():
    model = on_paper(
        "Qwen3Config",
        vocab_size=128,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    matrices = 2560 * 4096 + 2 * 2560 * 1024 + 4096 * 2560 + 3 * 2560 * 9728
    assert matrices == 100_925_440
    one = 2 * 100_925_440 + 4 * 4096 * 1025 // 2
    assert one == 210_247_680
    assert forward_flops(model, 0, 1024) == one
    assert forward_flops(model, 18, 1024) == 19 * one
    assert forward_flops(model, 35, 1024) == 36 * one
    assert forward_flops(model, 0, 1) == 2 * 100_925_440 + 4 * 4096


def test_plain_mlps_and_transposed_weights_count_alike(build):
    model = build("gpt2")
    matrices = 32 * 96 + 32 * 32 + 2 * 32 * 128
    assert forward_flops(model, 1, 9) == 2 * (2 * matrices + 2 * 32 * 10)


def test_the_formula_is_what_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.model(torch.ones(2, 16, dtype=torch.long), use_cache=False)
    above_diagonal = 3 * 2 * 64 * (16 - 1)  # eager attention computes the whole square
    assert counter.get_total_flops() / 32 == forward_flops(model, 2, 16) + above_diagonal


def test_experts_are_not_guessed_at():
    model = on_paper(
        "MixtralConfig",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model.model.layers[0].mlp = torch.nn.ModuleList([torch.nn.Linear(32, 32)])
    assert forward_flops(model, 0, 16) is None


@pytest.mark.parametrize(
    ("name", "half", "single"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12, 67e12),
        ("NVIDIA H100 PCIe", 756.5e12, 51.2e12),
        ("NVIDIA H200", 989.4e12, 67e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A10", 125e12, 31.2e12),
        ("NVIDIA A10G", None, None),
        ("NVIDIA L4", 121e12, 30.3e12),
        ("NVIDIA L40S", None, None),
        ("NVIDIA GeForce RTX 3090", 71e12, 35.6e12),
        ("NVIDIA GeForce RTX 3090 Ti", None, None),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 82.6e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("Tesla V100-SXM2-16GB", None, 15.7e12),
        ("NVIDIA H200 MIG 1g.18gb", None, None),
    ],
)
def test_peaks_are_known_by_exact_names(name, half, single):
    assert peak_of(name, torch.bfloat16) == half
    assert peak_of(name, torch.float32) == single


def test_what_is_not_known_is_none():
    assert peak_of("Tesla V100-SXM2-16GB", torch.float16) == 125e12
    assert peak_of("NVIDIA H100 80GB HBM3", torch.float64) is None
    assert peak_flops(torch.device("cpu"), torch.bfloat16) is None
