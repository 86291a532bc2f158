"""Products over active latents equal the dense ones."""

from __future__ import annotations

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


def test_a_batch_without_rows_has_sums_of_nothing() -> None:
    active = Active(torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.int64), 4)
    assert active.decode(torch.ones(4, 3)).shape == (0, 3)
    assert active.value_grads(torch.zeros(0, 3), torch.ones(4, 3)).shape == (0, 2)
    assert torch.equal(active.latent_sums(torch.zeros(0, 2), torch.zeros(0, 3)), torch.zeros(4, 3))
    assert not active.fired().any()


def test_the_number_of_threads_moves_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    pre, dec, z = (
        torch.randn(n, m, generator=generator) for n, m in ((600, 64), (64, 8), (600, 8))
    )
    results, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            active = Active(*top_k(pre, 6), 64)
            grads = active.value_grads(z, dec)
            results.append((active.decode(dec), grads, active.latent_sums(grads, z)))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
