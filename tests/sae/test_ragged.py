"""Products over active latents against the dense ones."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_cli.sae.ragged import Ragged

ROWS, D_SAE, D_IN = 13, 24, 6


def _draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _some(full: float = 0.2) -> tuple[Tensor, Ragged]:
    """Dense activations with empty rows and silent latents, and the same as entries."""
    f = _draw(ROWS, D_SAE, seed=0).abs() * (_draw(ROWS, D_SAE, seed=1).abs() < full)
    f[4] = 0.0
    f[:, 7] = 0.0
    rows, latents = f.nonzero(as_tuple=True)
    return f, Ragged(rows, latents, f[rows, latents], ROWS, D_SAE)


def test_it_decodes() -> None:
    f, active = _some()
    dec = _draw(D_SAE, D_IN, seed=2)
    torch.testing.assert_close(active.decode(dec), f @ dec)


def test_gradients_of_values_are_products_with_decoder_rows() -> None:
    f, active = _some()
    dec, grad = _draw(D_SAE, D_IN, seed=2), _draw(ROWS, D_IN, seed=3)
    torch.testing.assert_close(active.value_grads(grad, dec), (grad @ dec.T)[f > 0])


def test_sums_over_the_batch_are_those_of_the_transpose() -> None:
    f, active = _some()
    rows = _draw(ROWS, 3, seed=4)
    torch.testing.assert_close(active.latent_sums(active.values, rows), f.T @ rows)


def test_what_fired_is_what_has_an_entry() -> None:
    f, active = _some()
    assert torch.equal(active.fired(), (f > 0).any(0))


def test_a_range_of_latents_is_cut_out() -> None:
    f, active = _some()
    part, dec = active.within(5, 17), _draw(12, D_IN, seed=2)
    torch.testing.assert_close(part.decode(dec), f[:, 5:17] @ dec)


def test_nothing_active_is_no_special_case() -> None:
    f, active = _some(full=0.0)
    dec, grad = _draw(D_SAE, D_IN, seed=2), _draw(ROWS, D_IN, seed=3)
    assert not f.any() and not active.decode(dec).any() and not active.fired().any()
    assert active.value_grads(grad, dec).shape == (0,)
    assert not active.latent_sums(active.values, grad).any()
