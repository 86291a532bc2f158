"""Which entries are active, and when dense products are made instead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_cli.sae.activity import DENSE_ROWS, PROBE_ROWS, SPARSE_BELOW, dense_parts, entries_above
from sae_cli.sae.form import Form, Moment
from sae_cli.sae.jumprelu import JumpReLU
from sae_cli.sae.product import chunk_rows
from sae_cli.sae.relu_l1 import ReluL1
from sae_cli.spec.train import JumpReluTrain, ReluL1Train

D_SAE, D_IN, ROWS = 8192, 16, 300
CPU = torch.device("cpu")


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, enc, b_enc, floor: whole numbers, so that products are exact in any order."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).float()

    return draw(ROWS, D_IN), draw(D_SAE, D_IN), draw(D_SAE), 50 + draw(D_SAE)


def test_all_entries_above_the_floor_are_found_in_order(
    drawn: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    z, enc, b_enc, floor = drawn
    assert chunk_rows(D_SAE, 4, CPU) < ROWS
    found = entries_above(z, enc, b_enc, floor, 1.0)
    assert found is not None
    pre = z @ enc.T + b_enc
    rows, latents = (pre > floor).nonzero(as_tuple=True)
    assert rows.numel() > 100
    assert torch.equal(found.rows, rows) and torch.equal(found.latents, latents)
    assert torch.equal(found.values, pre[rows, latents])


def test_the_first_rows_decide_whether_there_are_too_many(
    drawn: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    z, enc, b_enc, floor = drawn
    assert entries_above(z, enc, b_enc, floor - 50, SPARSE_BELOW) is None
    z[:PROBE_ROWS] = 0.0
    assert entries_above(z, enc, b_enc, floor, 0.0) is not None


def test_dense_products_take_every_row_once() -> None:
    z = torch.randn(2 * DENSE_ROWS + 7, 3)
    parts = list(dense_parts(z))
    assert max(part.shape[0] for part in parts) == DENSE_ROWS
    assert torch.equal(torch.cat(parts), z)


def _forms() -> list[ReluL1 | JumpReLU]:
    relu = ReluL1Train(arch="relu_l1", width=64, l1=1.0)
    jump = JumpReluTrain(arch="jumprelu", width=64, l0=4.0, threshold_init=1.0)
    generator = torch.Generator().manual_seed(0)
    return [ReluL1(relu, D_IN, generator, CPU), JumpReLU(jump, D_IN, generator, CPU)]


@pytest.mark.parametrize("sparse", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("form", _forms(), ids=["relu_l1", "jumprelu"])
def test_silent_latents_and_empty_batches_move_nothing_of_theirs(form: Form, sparse: float) -> None:
    assert isinstance(form, ReluL1 | JumpReLU)
    form.sparse_below = sparse
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(50, D_IN, generator=generator)
    form.params["b_enc"].fill_(-100.0)
    silent = form.gradients(z, Moment(5, 10), None)
    assert float(silent.l0) == 0.0 and not silent.fired.any()
    for name in ("enc", "dec", "b_enc"):
        assert not silent.grads[name].any(), name
    assert silent.grads["b_dec"].any()
    nothing = form.gradients(z[:0], Moment(5, 10), None)
    for name in ("enc", "dec", "b_enc", "b_dec"):
        assert not nothing.grads[name].any(), name
    assert float(nothing.squared_error) == 0.0 and bool(nothing.loss.isfinite())
