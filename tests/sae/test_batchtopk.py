"""BatchTopK: its gradients, its exact cut, and the threshold that is found at the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gradchecks import (
    D_IN,
    D_SAE,
    MIDWAY,
    ROWS,
    auxiliary,
    batch,
    check,
    fvu,
    largest,
    shaken,
    silent,
)
from torch import Tensor

from sae_cli.errors import TrainingError
from sae_cli.sae.fold import fold
from sae_cli.sae.form import Form
from sae_cli.sae.forms import make_form
from sae_cli.spec.train import BatchTopKTrain


def _form(k: int = 4, **fields: Any) -> Form:
    return shaken(BatchTopKTrain(arch="batchtopk", width=D_SAE, k=k, **fields))


def _loss(p: dict[str, Tensor], z: Tensor, k: int, dead: list[int] | None, k_aux: int) -> Tensor:
    f = (z @ p["enc"].T + p["b_enc"]).relu()
    error = (f * largest(f, k * z.shape[0])) @ p["dec"] + p["b_dec"] - z
    aux = 0.0 if dead is None else auxiliary(p, z, error, dead, k_aux)
    return fvu(error, z) + 0.3 * aux


@pytest.mark.parametrize("k", [1, 4, D_SAE], ids=["k 1", "k 4", "k is d_sae"])
@pytest.mark.parametrize("auxk", [2, 64], ids=["fewer than dead", "more than dead"])
@pytest.mark.parametrize(
    "dead", [None, [3, 17, 30, 31], list(range(D_SAE))], ids=["none dead", "some dead", "all dead"]
)
def test_every_gradient_is_that_of_the_formula(dead: list[int] | None, auxk: int, k: int) -> None:
    form, z = _form(k, auxk=auxk, auxk_alpha=0.3), batch()
    outcome = check(form, z, lambda p: _loss(p, z, k, dead, auxk), dead)
    if k == 4:
        assert float(outcome.l0) == 4.0


def test_of_equal_activations_at_the_cut_the_first_are_kept() -> None:
    form = _form(k=1, auxk_alpha=0.0)
    form.params["enc"][1:4] = form.params["enc"][0]
    form.params["b_enc"][:4] = 30.0
    z = batch()[:1].repeat(5, 1)
    outcome = check(form, z + 0.0, lambda p: _tied_loss(p, z))
    assert outcome.fired.nonzero().flatten().tolist() == [0, 1, 2, 3]


def _tied_loss(p: dict[str, Tensor], z: Tensor) -> Tensor:
    """Five places for 5 rows of four equal latents: row 0 takes all four, row 1 the first."""
    mask = torch.zeros(5, D_SAE, dtype=z.dtype)
    mask[0, :4] = 1.0
    mask[1, 0] = 1.0
    f = (z @ p["enc"].T + p["b_enc"]).relu() * mask
    error = f @ p["dec"] + p["b_dec"] - z
    spread = (z - z.mean(0)).square().sum().clamp_min(torch.finfo(z.dtype).tiny)
    return error.square().sum() / spread


def test_an_empty_batch_changes_nothing() -> None:
    silent(_form(), batch())


def test_nothing_above_zero_leaves_only_the_bias() -> None:
    form, z = _form(), batch()
    form.params["b_enc"].fill_(-1e3)
    outcome = check(form, z, lambda p: fvu(p["b_dec"] - z, z))
    assert float(outcome.l0) == 0.0 and not outcome.fired.any()


def test_the_auxiliary_loss_reaches_the_encoder_of_dead_latents_and_no_other() -> None:
    form, z = _form(), batch()
    form.params["enc"][7] *= 0.05
    form.params["b_enc"][7] = 0.0
    plain = form.gradients(z, MIDWAY, None).grads
    assert not plain["enc"][7].any(), "latent 7 should be silent on this batch"
    revived = form.gradients(z, MIDWAY, torch.tensor([7])).grads
    others = torch.arange(D_SAE) != 7
    for name in ("enc", "dec", "b_enc"):
        assert revived[name][7].any(), name
        assert torch.equal(plain[name][others], revived[name][others]), name


@pytest.mark.parametrize("rows", [[ROWS], [1, 40, 20]], ids=["one batch", "ragged batches"])
def test_the_calibrated_threshold_keeps_exactly_k_a_row(rows: list[int]) -> None:
    spec = BatchTopKTrain(arch="batchtopk", width=D_SAE, k=4)
    form = make_form(spec, D_IN, torch.device("cpu"))
    z = batch().float()
    form.calibrate(lambda: iter(z.split(rows)))
    scaled = form.scaled()
    assert scaled.threshold is not None and scaled.threshold.shape == (D_SAE,)
    fires = torch.addmm(scaled.b_enc, z, scaled.enc.T) > scaled.threshold
    assert int(fires.sum()) == 4 * ROWS
    sae = fold(scaled, torch.zeros(D_IN), 1.0)
    assert sae.arch == "jumprelu" and int((sae.encode(z) > 0).sum()) == 4 * ROWS
    pre = torch.addmm(scaled.b_enc, z, scaled.enc.T).flatten().sort(descending=True).values
    kept, dropped = pre[4 * ROWS - 1], pre[4 * ROWS]
    assert kept > dropped > 0
    torch.testing.assert_close(scaled.threshold[0], (kept + dropped) / 2)


def test_pre_activations_that_tie_at_the_threshold_are_all_kept() -> None:
    form = make_form(BatchTopKTrain(arch="batchtopk", width=D_SAE, k=2), D_IN, torch.device("cpu"))
    form.params["enc"].zero_()
    form.params["b_enc"].copy_(torch.tensor([3.0, *[2.0] * 4, *[1.0] * (D_SAE - 5)]))
    form.calibrate(lambda: iter([batch().float()]))
    assert 1.0 < float(form.buffers["threshold"]) < 2.0
    assert int((form.params["b_enc"] > form.buffers["threshold"]).sum()) == 5


def test_where_too_little_is_positive_the_threshold_is_zero() -> None:
    form = make_form(BatchTopKTrain(arch="batchtopk", width=D_SAE, k=31), D_IN, torch.device("cpu"))
    form.buffers["threshold"].fill_(1.0)
    z = batch().float()
    form.calibrate(lambda: iter([z]))
    assert float(form.buffers["threshold"]) == 0.0


def test_the_first_batch_is_reconstructed_as_well_as_one_factor_can() -> None:
    form = make_form(BatchTopKTrain(arch="batchtopk", width=D_SAE, k=4), D_IN, torch.device("cpu"))
    z, enc = batch().float() * 3.0, form.params["enc"]
    form.begin(z)
    loss = form.gradients(z, MIDWAY, None).loss
    for factor in (0.9, 1.1):
        form.params["enc"] = enc * factor
        assert form.gradients(z, MIDWAY, None).loss > loss
    assert loss < 1.0


def test_more_latents_than_there_are_is_refused() -> None:
    with pytest.raises(TrainingError, match="k = 33 latents can't be active where there are 32"):
        _form(k=33)
