"""Matryoshka: every prefix of groups is a reconstruction of its own, and all of them count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gradchecks import D_SAE, MIDWAY, auxiliary, batch, check, fvu, largest, shaken, silent
from pydantic import ValidationError
from torch import Tensor

from sae_cli.sae.form import Form
from sae_cli.spec.train import BatchTopKTrain, MatryoshkaTrain

GROUPS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
ENDS = (1, 3, 7, 15, 32)


def _form(k: int = 4, **fields: Any) -> Form:
    return shaken(MatryoshkaTrain(arch="matryoshka", width=D_SAE, k=k, **fields))


def _loss(
    p: dict[str, Tensor], z: Tensor, k: int, ends: tuple[int, ...], dead: list[int] | None
) -> Tensor:
    f = (z @ p["enc"].T + p["b_enc"]).relu()
    f = f * largest(f, k * z.shape[0])
    errors = [f[:, :end] @ p["dec"][:end] + p["b_dec"] - z for end in ends]
    aux = 0.0 if dead is None else auxiliary(p, z, errors[-1], dead, 2)
    return torch.stack([fvu(e, z) for e in errors]).mean() + 0.3 * aux


@pytest.mark.parametrize("k", [1, 4, D_SAE], ids=["k 1", "k 4", "k is d_sae"])
@pytest.mark.parametrize(
    "dead", [None, [0, 3, 17, 31], list(range(D_SAE))], ids=["none dead", "some dead", "all dead"]
)
def test_every_gradient_is_that_of_the_formula(dead: list[int] | None, k: int) -> None:
    form, z = _form(k, auxk=2, auxk_alpha=0.3), batch()
    check(form, z, lambda p: _loss(p, z, k, ENDS, dead), dead)


def test_other_groups_can_be_given() -> None:
    form, z = _form(groups=(0.25, 0.75), auxk_alpha=0.0), batch()
    check(form, z, lambda p: _loss(p, z, 4, (8, 32), None))


def test_one_group_is_batchtopk() -> None:
    z = batch()
    one = _form(groups=(1.0,)).gradients(z, MIDWAY, None)
    plain = shaken(BatchTopKTrain(arch="batchtopk", width=D_SAE, k=4)).gradients(z, MIDWAY, None)
    torch.testing.assert_close(one.loss, plain.loss)
    for name, gradient in plain.grads.items():
        torch.testing.assert_close(one.grads[name], gradient)


def test_an_empty_batch_changes_nothing() -> None:
    silent(_form(), batch())


def test_groups_are_shares_of_the_width() -> None:
    assert MatryoshkaTrain(arch="matryoshka", width=65536).group_ends() == (
        2048, 6144, 14336, 30720, 65536,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"groups": (0.5, 0.4)}, "add up to 1, not 0.9"),
        ({"groups": (0.5, -0.5, 1.0)}, "greater than 0"),
        ({"groups": ()}, "at least 1 item"),
        ({"width": 8}, "a group of 0.03125 of 8 latents is empty"),
    ],
)
def test_groups_that_do_not_fit_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MatryoshkaTrain(**({"arch": "matryoshka", "width": 64} | fields))
