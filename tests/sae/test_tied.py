"""The tied baseline: one matrix, both ways."""

from __future__ import annotations

import torch
from gradchecks import D_IN, D_SAE, batch, check, shaken, silent
from torch import Tensor

from sae_cli.sae.fold import fold
from sae_cli.sae.form import Form
from sae_cli.spec.train import TiedTrain


def _form() -> Form:
    return shaken(TiedTrain(arch="tied", width=D_SAE, l1=3.0, l1_warmup=1.0, lr_decay=0.0))


def _loss(p: dict[str, Tensor], z: Tensor) -> Tensor:
    f = (z @ p["dec"].T + p["b_enc"]).relu()
    error = f @ p["dec"] - z
    return (error.square().sum(1) + 1.5 * f.sum(1)).mean() / D_IN


def test_every_gradient_is_that_of_the_formula_halfway_through_the_warm_up() -> None:
    form, z = _form(), batch()
    outcome = check(form, z, lambda p: _loss(p, z))
    assert float(outcome.extra["coefficient"]) == 1.5


def test_gradients_stay_right_where_everything_is_silent() -> None:
    form, z = _form(), batch()
    form.params["b_enc"].fill_(-1e3)
    outcome = check(form, z, lambda p: (p["dec"] * 0).sum() + z.square().sum() / z.numel())
    assert not outcome.fired.any()


def test_an_empty_batch_changes_nothing() -> None:
    silent(_form(), batch())


def test_what_is_stored_decodes_with_the_encoders_rows() -> None:
    form, x = _form(), batch() + 2.0
    mean = torch.full((D_IN,), 2.0, dtype=torch.float64)
    sae = fold(form.scaled(), mean, 1.0, dtype=torch.float64)
    z = x - mean
    f = (z @ form.params["dec"].T + form.params["b_enc"]).relu()
    torch.testing.assert_close(sae(x), f @ form.params["dec"] + mean)
    torch.testing.assert_close(sae.W_enc.T, sae.W_dec)
