"""JumpReLU with a tanh penalty: its pseudo-derivatives written out, and how it starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gradchecks import D_IN, D_SAE, MIDWAY, batch, check, shaken, silent
from torch import Tensor

from sae_cli.sae.form import Form
from sae_cli.sae.forms import make_form
from sae_cli.spec.train import JumpReluTanhTrain

BANDWIDTH = 0.4


def _spec(**fields: Any) -> JumpReluTanhTrain:
    given: dict[str, Any] = {"width": D_SAE, "tanh": 3.0, "pre_act": 0.05, "bandwidth": BANDWIDTH}
    return JumpReluTanhTrain(arch="jumprelu_tanh", **(given | fields))


def _form(**fields: Any) -> Form:
    form = shaken(_spec(threshold_init=0.8, **fields), free_decoder=True)
    form.params["threshold"].abs_()
    return form


class _Jump(torch.autograd.Function):
    """pi * H(pi - theta) with the source's pseudo-derivatives in theta and in pi."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(pre, theta)
        return pre * (pre > theta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        pre, theta = ctx.saved_tensors
        window = ((pre - theta).abs() < BANDWIDTH / 2).to(pre.dtype)
        jump = theta / BANDWIDTH * window * grad
        return grad * (pre > theta) + jump, -jump.sum(0)


def _loss(p: dict[str, Tensor], z: Tensor) -> Tensor:
    pre = z @ p["enc"].T + p["b_enc"]
    jump: Any = _Jump.apply
    f, norms = jump(pre, p["threshold"]), p["dec"].norm(dim=1)
    error = f @ p["dec"] + p["b_dec"] - z
    price = 1.5 * torch.tanh(4.0 * f * norms).sum(1)
    pull = 0.05 * ((p["threshold"] - pre).relu() * norms).sum(1)
    return (error.square().sum(1) + price + pull).mean() / D_IN


def test_every_gradient_is_that_of_the_formula_halfway_through_the_warm_up() -> None:
    form, z = _form(), batch()
    outcome = check(form, z, lambda p: _loss(p, z), free_decoder=True)
    pre = z @ form.params["enc"].T + form.params["b_enc"]
    assert float(outcome.l0) == float((pre > form.params["threshold"]).sum() / len(z))


def test_gradients_stay_right_where_everything_is_silent() -> None:
    form, z = _form(), batch()
    form.params["b_enc"].fill_(-10.0)
    outcome = check(form, z, lambda p: _loss(p, z), free_decoder=True)
    assert not outcome.fired.any() and outcome.grads["b_enc"].lt(0).all()


def test_a_decoder_row_of_zero_has_finite_gradients() -> None:
    form, z = _form(), batch()
    form.params["dec"][3] = 0.0
    grads = form.gradients(z, MIDWAY, None).grads
    assert all(g.isfinite().all() for g in grads.values())


def test_an_empty_batch_changes_nothing() -> None:
    silent(_form(), batch())


@pytest.mark.parametrize(("width", "share"), [(64, 0.5), (40_000, 0.25)])
def test_at_the_start_every_latent_fires_equally_often(width: int, share: float) -> None:
    form = make_form(_spec(width=width), D_IN, torch.device("cpu"))
    z = batch(400).float()
    form.begin(z)
    p = form.params
    fires = (torch.addmm(p["b_enc"], z, p["enc"].T) > p["threshold"]).float().mean(0)
    torch.testing.assert_close(fires, torch.full((width,), share), atol=0.006, rtol=0)


def test_a_latent_costs_a_quarter_percent_of_the_variance_if_nothing_else_is_said() -> None:
    form = make_form(_spec(tanh=None, tanh_warmup=0.0), D_IN, torch.device("cpu"))
    outcome = form.gradients(batch().float(), MIDWAY, None)
    assert float(outcome.extra["coefficient"]) == pytest.approx(D_IN / 400)
