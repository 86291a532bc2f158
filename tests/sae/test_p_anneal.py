"""p-anneal: the penalty's gradient at every exponent, its schedule, and the price that follows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gradchecks import D_IN, D_SAE, batch, check, shaken, silent
from pydantic import ValidationError
from torch import Tensor

from sae_cli.sae.form import Moment
from sae_cli.sae.p_anneal import DELTA, PAnneal
from sae_cli.spec.train import PAnnealTrain


def _form(**fields: Any) -> PAnneal:
    spec = PAnnealTrain(arch="p_anneal", width=D_SAE, l1=3.0, l1_warmup=0.0, **fields)
    form = shaken(spec)
    assert isinstance(form, PAnneal)
    return form


def _loss(p: dict[str, Tensor], z: Tensor, exponent: float, factor: float = 1.0) -> Tensor:
    f = (z @ p["enc"].T + p["b_enc"]).relu()
    error = f @ p["dec"] + p["b_dec"] - z
    penalty = ((f + DELTA) ** exponent - DELTA**exponent).sum(1)
    return (error.square().sum(1) + 3.0 * factor * penalty).mean() / D_IN


@pytest.mark.parametrize(("step", "exponent"), [(0, 1.0), (50, 0.6), (99, 0.2)])
def test_every_gradient_is_that_of_the_formula(step: int, exponent: float) -> None:
    form, z = _form(p_start=0.2, p_end=0.8), batch()
    form.buffers["factor"].fill_(0.5)
    check(form, z, lambda p: _loss(p, z, exponent, 0.5), moment=Moment(step, 100))


def test_gradients_stay_right_where_everything_is_silent() -> None:
    form, z = _form(), batch()
    form.params["b_enc"].fill_(-1e3)
    check(form, z, lambda p: _loss(p, z, 0.2), moment=Moment(99, 100))


def test_an_empty_batch_changes_nothing() -> None:
    silent(_form(), batch())


def test_the_exponent_falls_in_equal_steps_from_start_to_end() -> None:
    form = _form(p=0.2, p_steps=4, p_start=0.1, p_end=0.7)
    seen = [form.exponent(step, 100) for step in range(100)]
    assert [i for i in range(1, 100) if seen[i] != seen[i - 1]] == [10, 30, 50, 70]
    assert sorted(set(seen), reverse=True) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("steps", [2, 3, 40])
def test_it_ends_at_p_however_short_the_training(steps: int) -> None:
    form = _form(p_end=0.5)
    assert form.exponent(0, steps) == 1.0
    assert form.exponent(steps - 1, steps) == pytest.approx(0.2)


def test_the_price_keeps_the_size_of_the_penalty_when_the_exponent_falls() -> None:
    """Over the last ten steps before the change, lambda * mean penalty is the same after it."""
    form, z = _form(p=0.5, p_steps=1, p_start=0.4, p_end=0.6), batch()
    sums = {1.0: 0.0, 0.5: 0.0}
    for step in range(40):
        form.params["b_enc"].fill_(-0.02 * step)
        outcome = form.gradients(z, Moment(step, 100), None)
        if step >= 30:
            f = (z @ form.params["enc"].T + form.params["b_enc"]).relu()
            for p in sums:
                sums[p] += float(((f + DELTA) ** p - DELTA**p).sum())
        form.settle(outcome, Moment(step, 100))
    assert form.exponent(39, 100) == 1.0 and form.exponent(40, 100) == 0.5
    assert float(form.buffers["factor"]) == pytest.approx(sums[1.0] / sums[0.5])
    assert float(form.buffers["now"]) == float(form.buffers["next"]) == 0.0


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"p_start 0\.5 comes after p_end 0\.4"):
        PAnnealTrain(arch="p_anneal", width=64, p_start=0.5, p_end=0.4)


def test_sums_of_the_window_are_carried_over_a_restart() -> None:
    assert set(_form().buffers) == {"factor", "now", "next"}
    assert all(isinstance(b, torch.Tensor) for b in _form().buffers.values())
