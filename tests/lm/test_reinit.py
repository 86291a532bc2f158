"""A model drawn anew keeps shape and scale of every tensor, and nothing of what it had learned."""

from __future__ import annotations

import pytest
import torch

from sae_cli.lm import reinit
from sae_cli.lm.load import load_model, load_tokenizer
from sae_cli.spec.stages import ModelSpec

CPU = torch.device("cpu")


def tiny(seed=None, dtype="float32"):
    return load_model(ModelSpec(builtin="tiny", dtype=dtype, reinit=seed), CPU)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def plain():
    return weights(tiny())


@pytest.fixture(scope="module")
def drawn():
    return weights(tiny(0))


def test_every_tensor_is_another_with_its_own_mean_and_deviation(plain, drawn):
    assert plain.keys() == drawn.keys()
    for name, was in plain.items():
        now, n = drawn[name].double(), was.numel()
        assert not torch.equal(was, drawn[name]), name
        mean, std = was.double().mean(), was.double().std(correction=0)
        assert abs(now.mean() - mean) < 5 * std / n**0.5, name
        assert abs(now.std(correction=0) - std) < 5 * std / (2 * n) ** 0.5, name


def test_nothing_of_a_tensor_is_left(plain, drawn):
    name = "model.layers.1.mlp.down_proj.weight"
    both = torch.stack([plain[name].flatten(), drawn[name].flatten()])
    assert abs(torch.corrcoef(both)[0, 1]) < 5 / plain[name].numel() ** 0.5


def test_tied_embeddings_stay_tied():
    model = tiny(0)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not any(p.requires_grad for p in model.parameters())


def test_a_seed_is_a_model_whatever_threads_do_the_work(drawn):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        again = weights(tiny(0))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(again[name], tensor) for name, tensor in drawn.items())
    other = weights(tiny(1))
    assert not any(torch.equal(other[name], tensor) for name, tensor in drawn.items())


def test_tensors_that_are_drawn_in_pieces_are_the_same(drawn, monkeypatch):
    monkeypatch.setattr(reinit, "_AT_ONCE", 1000)
    pieces = weights(tiny(0))  # moments add up in another order, so bits may differ
    assert all(torch.allclose(pieces[n], t, rtol=0, atol=1e-5) for n, t in drawn.items())


def test_a_model_in_bfloat16_is_drawn_in_bfloat16():
    model = tiny(0, "bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_what_a_tensor_is_drawn_as_does_not_hang_on_its_layout():
    def model(weight):
        one = torch.nn.Linear(3, 5, bias=False)
        one.weight = torch.nn.Parameter(weight, requires_grad=False)
        return one

    rows = torch.arange(15.0).view(5, 3)
    a, b = model(rows.clone()), model(rows.T.contiguous().T)
    assert not b.weight.is_contiguous()
    reinit.draw_anew(a, 3)
    reinit.draw_anew(b, 3)
    assert torch.allclose(a.weight, b.weight, rtol=1e-6)


def test_a_bias_that_is_zero_everywhere_stays_so():
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    layer.bias.zero_()
    reinit.draw_anew(layer, 0)
    assert layer.bias.abs().max() == 0


def test_the_tokenizer_is_that_of_the_model():
    said = load_tokenizer(ModelSpec(builtin="tiny", reinit=0))("The cat")["input_ids"]
    assert said == load_tokenizer(ModelSpec(builtin="tiny"))("The cat")["input_ids"]
