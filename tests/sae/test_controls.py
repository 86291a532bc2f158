"""Controls rebuild from k of their own components, by the formula that they state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_cli.sae.controls import Control, Covariance, random_rows

D, N, ROWS = 10, 50, 30


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _activations() -> tuple[Tensor, Tensor]:
    x = _random(N, D, seed=0) * torch.linspace(0.1, 3, D) + 2
    return x, torch.full((D,), 1.8)


def _by_hand(x: Tensor, mean: Tensor, rows: Tensor, k: int) -> np.ndarray:
    """One token at a time, float64."""
    out = []
    m, basis = mean.double().numpy(), rows.double().numpy()
    for token in x.double().numpy():
        s = basis @ (token - m)
        chosen = np.argsort(-np.abs(s))[:k]
        y = s[chosen] @ basis[chosen]
        a = (token - m) @ y / (y @ y)
        out.append(m + a * y)
    return np.array(out)


def _directions(x: Tensor, mean: Tensor) -> Tensor:
    total = Covariance(mean)
    for part in x.split(7):
        total.add(part)
    return total.directions()


@pytest.mark.parametrize("k", [1, 3, D])
@pytest.mark.parametrize("name", ["pca", "neurons", "random"])
def test_a_reconstruction_equals_its_formula(name: str, k: int) -> None:
    x, mean = _activations()
    rows = {
        "pca": _directions(x, mean),
        "neurons": None,
        "random": random_rows(ROWS, D, torch.device("cpu")),
    }[name]
    control = Control(mean, rows, k, orthogonal=name != "random")
    f = control.encode(x)
    assert f.shape == (N, control.d_sae) and ((f != 0).sum(1) == k).all()
    wanted = _by_hand(x, mean, torch.eye(D) if rows is None else rows, k)
    np.testing.assert_allclose(control.forward(x).double().numpy(), wanted, rtol=1e-4, atol=1e-5)
    shaped = control.forward(x.view(5, 10, D))
    torch.testing.assert_close(shaped.view(N, D), control.forward(x))


def test_all_orthogonal_components_together_rebuild_everything() -> None:
    x, mean = _activations()
    for rows in (None, _directions(x, mean)):
        torch.testing.assert_close(Control(mean, rows, D + 5).forward(x), x)


def test_principal_directions_are_those_of_numpy_the_largest_first() -> None:
    x, mean = _activations()
    found = _directions(x, mean)
    centred = (x - mean).double().numpy()
    values, vectors = np.linalg.eigh(centred.T @ centred)
    assert (np.diff(values[::-1]) <= 0).all()
    overlap = np.abs((found.double().numpy() * vectors.T[::-1]).sum(1))
    np.testing.assert_allclose(overlap, 1.0, atol=1e-5)


def test_the_scalar_of_random_rows_is_the_best_one() -> None:
    x, mean = _activations()
    control = Control(mean, random_rows(ROWS, D, torch.device("cpu")), 4, orthogonal=False)
    y = control.forward(x) - mean
    best = (x - mean - y).square().sum(1)
    for scale in (0.99, 1.01):
        assert ((x - mean - scale * y).square().sum(1) > best).all()


def test_random_rows_are_of_unit_norm_and_always_the_same() -> None:
    rows = random_rows(ROWS, D, torch.device("cpu"))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(ROWS))
    assert torch.equal(rows, random_rows(ROWS, D, torch.device("cpu")))


def test_a_token_at_the_mean_has_no_latents_and_no_nan() -> None:
    mean = torch.ones(D)
    control = Control(mean, random_rows(ROWS, D, torch.device("cpu")), 4, orthogonal=False)
    x = mean.expand(3, D)
    assert (control.encode(x) == 0).all() and torch.equal(control.forward(x), x)
