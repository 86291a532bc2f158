"""Gated: its gradients, and that it is a JumpReLU when it is stored."""

from __future__ import annotations

import torch
from gradchecks import D_IN, D_SAE, batch, check, shaken, silent
from torch import Tensor

from sae_cli.sae.fold import fold
from sae_cli.sae.form import Form
from sae_cli.spec.train import GatedTrain


def _form() -> Form:
    return shaken(GatedTrain(arch="gated", width=D_SAE, l1=3.0, l1_warmup=1.0, lr_decay=0.0))


def _f(p: dict[str, Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    gate = z @ p["enc"].T + p["b_gate"]
    magnitude = (p["r_mag"].exp() * (z @ p["enc"].T) + p["b_mag"]).relu()
    return (gate > 0) * magnitude, gate.relu()


def _loss(p: dict[str, Tensor], z: Tensor) -> Tensor:
    f, gate = _f(p, z)
    error = f @ p["dec"] + p["b_dec"] - z
    through_gate = gate @ p["dec"].detach() + p["b_dec"].detach() - z
    row = error.square().sum(1) + 1.5 * gate.sum(1) + through_gate.square().sum(1)
    return row.mean() / D_IN


def test_every_gradient_is_that_of_the_formula_halfway_through_the_warm_up() -> None:
    form, z = _form(), batch()
    outcome = check(form, z, lambda p: _loss(p, z))
    f, _ = _f(form.params, z)
    assert float(outcome.l0) == float((f > 0).sum() / len(z))
    assert torch.equal(outcome.fired, (f > 0).any(0))


def test_gradients_stay_right_where_a_gate_is_exactly_zero() -> None:
    form, z = _form(), batch()
    form.params["enc"][5] = 0.0
    form.params["b_gate"][5] = 0.0
    outcome = check(form, z, lambda p: _loss(p, z))
    assert not outcome.fired[5]


def test_nothing_open_leaves_only_the_bias() -> None:
    form, z = _form(), batch()
    form.params["b_gate"].fill_(-1e3)
    outcome = check(form, z, lambda p: _loss(p, z))
    assert float(outcome.l0) == 0.0


def test_an_empty_batch_changes_nothing() -> None:
    silent(_form(), batch())


def test_what_is_stored_is_the_same_function_as_a_jumprelu() -> None:
    form, x = _form(), batch(500) * 3.0 + 1.0
    mean, scale = torch.linspace(-1, 1, D_IN, dtype=torch.float64), 0.7
    sae = fold(form.scaled(), mean, scale, dtype=torch.float64)
    z = (x - mean) * scale
    f, _ = _f(form.params, z)
    assert sae.arch == "jumprelu" and (form.scaled().threshold == 0).any()
    assert 0.1 < float((f > 0).double().mean()) < 0.9
    wanted = (f @ form.params["dec"] + form.params["b_dec"]) / scale + mean
    torch.testing.assert_close(sae(x), wanted)
