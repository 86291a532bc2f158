"""Products over active latents equal the dense ones."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from sae_cli.sae.selection import top_k
from sae_cli.sae.sparse import Active

ROWS, D_IN, D_SAE, K = 37, 8, 24, 5


@pytest.fixture
def drawn() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pre = draw(ROWS, D_SAE) - 1.5
    values, indices = top_k(pre, K)
    return {
        "values": values,
        "indices": indices,
        "f": torch.zeros_like(pre).scatter_(1, indices, values),
        "dec": draw(D_SAE, D_IN),
        "grad": draw(ROWS, D_IN),
        "z": draw(ROWS, D_IN),
    }


def test_the_draw_has_rows_with_fewer_than_k_active_latents(drawn: dict[str, Tensor]) -> None:
    assert (drawn["values"] == 0).any() and (drawn["values"] > 0).any()


def test_decoding_equals_the_dense_product(drawn: dict[str, Tensor]) -> None:
    active = Active(drawn["values"], drawn["indices"], D_SAE)
    torch.testing.assert_close(active.decode(drawn["dec"]), drawn["f"] @ drawn["dec"])


def test_value_gradients_equal_the_dense_ones_and_vanish_where_inactive(
    drawn: dict[str, Tensor],
) -> None:
    active = Active(drawn["values"], drawn["indices"], D_SAE)
    dense = (drawn["grad"] @ drawn["dec"].T) * (drawn["f"] > 0)
    got = active.value_grads(drawn["grad"], drawn["dec"])
    torch.testing.assert_close(got, dense.gather(1, drawn["indices"]))


def test_sums_over_a_latents_tokens_equal_the_dense_product(drawn: dict[str, Tensor]) -> None:
    active = Active(drawn["values"], drawn["indices"], D_SAE)
    torch.testing.assert_close(
        active.latent_sums(drawn["values"], drawn["z"]), drawn["f"].T @ drawn["z"]
    )


def test_a_latent_fired_when_some_row_has_it_above_zero(drawn: dict[str, Tensor]) -> None:
    active = Active(drawn["values"], drawn["indices"], D_SAE)
    assert torch.equal(active.fired(), (drawn["f"] > 0).any(0))
    silent = Active(torch.zeros(3, 2), torch.tensor([[0, 1]] * 3), 4)
    assert not silent.fired().any()


def test_users_hear_no_warning_of_torchs(drawn: dict[str, Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Active(drawn["values"], drawn["indices"], D_SAE).decode(drawn["dec"])
