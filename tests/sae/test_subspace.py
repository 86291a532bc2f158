"""Starting in the part of the space that the activations fill."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_cli.sae.fold import scaling
from sae_cli.sae.subspace import active_subspace, into_active_subspace
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.train import ARCHITECTURES

D_IN, RANK = 24, 9


def _flat(rows: int, noise: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Activations with an offset that fill 9 of 24 dimensions, and a basis of those."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(D_IN, RANK, generator=generator)).Q
    x = torch.randn(rows, RANK, generator=generator) @ basis.T
    return x + noise * torch.randn(rows, D_IN, generator=generator) + 3.0, basis


def test_it_is_found_about_the_mean_whatever_little_is_outside() -> None:
    x, basis = _flat(500)
    found = active_subspace(x)
    assert found.shape == (D_IN, RANK)
    torch.testing.assert_close(found @ found.T, basis @ basis.T, atol=1e-3, rtol=0)


def test_rows_are_turned_into_it_and_keep_their_norms() -> None:
    x, basis = _flat(500)
    generator = torch.Generator().manual_seed(1)
    params = {n: torch.randn(40, D_IN, generator=generator) for n in ("enc", "dec", "other")}
    before = {n: t.clone() for n, t in params.items()}
    assert into_active_subspace(params, x) == RANK
    for name in ("enc", "dec"):
        rows = params[name]
        torch.testing.assert_close(rows.norm(dim=1), before[name].norm(dim=1))
        torch.testing.assert_close(rows @ basis @ basis.T, rows, atol=1e-2, rtol=0)
    assert torch.equal(params["other"], before["other"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_starts_there_if_the_spec_says_so(arch: str) -> None:
    x, basis = _flat(256)
    outside = torch.eye(D_IN) - basis @ basis.T
    share = {}
    for start in ("random", "active_subspace"):
        spec = ARCHITECTURES[arch](arch=arch, width=64, lr=1e-6, decoder_init=start)
        trainer = Trainer(
            spec, D_IN, *scaling(x.mean(0), float(x.square().sum(1).mean())), "cpu", 1
        )
        trainer.step(x)
        dec = trainer.form.params["dec"]
        share[start] = float((dec @ outside).norm() / dec.norm())
    assert share["random"] > 0.5 and share["active_subspace"] < 0.01
