"""The folded SAE is the trained function, in raw units."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sae_cli.errors import TrainingError
from sae_cli.sae.base import Arch
from sae_cli.sae.fold import fold, scaling
from sae_cli.sae.form import Scaled
from sae_cli.sae.selection import top_k

D_IN, D_SAE, ROWS = 16, 64, 500
ARCHS: list[Arch] = ["topk", "relu_l1", "jumprelu"]


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _trained(arch: Arch) -> Scaled:
    dec = _draw(D_SAE, D_IN, seed=1)
    if arch != "relu_l1":
        dec /= dec.norm(dim=1, keepdim=True)
    return Scaled(
        arch, _draw(D_SAE, D_IN, seed=2), dec, _draw(D_SAE, seed=3), _draw(D_IN, seed=4),
        threshold=_draw(D_SAE, seed=5).abs() if arch == "jumprelu" else None,
        k=7 if arch == "topk" else None,
    )  # fmt: skip


def _train_form(form: Scaled, z: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and reconstruction in scaled units, straight from the formulas."""
    pre = z @ form.enc.T + form.b_enc
    if form.arch == "topk":
        assert form.k is not None
        values, indices = top_k(pre, form.k)
        f = torch.zeros_like(pre).scatter_(1, indices, values)
    elif form.arch == "jumprelu":
        assert form.threshold is not None
        f = pre * (pre > form.threshold)
    else:
        f = pre.relu()
    return f, f @ form.dec + form.b_dec


@pytest.mark.parametrize("arch", ARCHS)
def test_folded_on_raw_equals_trained_on_scaled(arch: Arch) -> None:
    form, mean, scale = _trained(arch), 3.0 + _draw(D_IN, seed=6), 0.37
    x = _draw(ROWS, D_IN, seed=7) * 4.0 + mean
    f, z_hat = _train_form(form, (x - mean) * scale)
    sae = fold(form, mean, scale, torch.float64)
    norms = form.dec.norm(dim=1) / scale
    torch.testing.assert_close(sae(x), mean + z_hat / scale, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(sae.encode(x), f * norms, rtol=1e-11, atol=1e-11)
    assert torch.equal(sae.encode(x) > 0, f > 0)


@pytest.mark.parametrize("arch", ARCHS)
def test_in_float32_only_latents_at_the_edge_of_firing_may_differ(arch: Arch) -> None:
    form, mean, scale = _trained(arch), 3.0 + _draw(D_IN, seed=6), 0.37
    x = _draw(ROWS, D_IN, seed=7) * 4.0 + mean
    sae, exact = fold(form, mean, scale), fold(form, mean, scale, torch.float64)
    f, wanted = sae.encode(x), exact.encode(x)
    differ = (f > 0) != (wanted > 0)
    assert differ.sum() <= 2
    rows = ~differ.any(1)
    torch.testing.assert_close(sae(x)[rows].double(), exact(x)[rows], rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_decoder_rows_have_unit_norm(arch: Arch) -> None:
    sae = fold(_trained(arch), _draw(D_IN, seed=6), 0.37)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE), rtol=0, atol=1e-6)


def test_a_latent_without_effect_is_stored_as_one_that_never_fires() -> None:
    form = _trained("relu_l1")
    form.dec[3] = 0.0
    form.b_enc[3] = 10.0
    sae = fold(form, torch.zeros(D_IN, dtype=torch.float64), 1.0)
    assert not sae.encode(_draw(ROWS, D_IN, seed=8))[:, 3].any()
    assert float(sae.W_dec[3].norm()) == 1.0


def test_scaling_brings_activations_to_mean_square_one_per_dimension() -> None:
    x = _draw(4000, D_IN, seed=9) * torch.linspace(0.1, 5, D_IN, dtype=torch.float64) + 2.0
    mean, mean_square = x.mean(0), float(x.square().sum(1).mean())
    for center in (True, False):
        offset, scale = scaling(mean, mean_square, center=center)
        assert float(((x - offset) * scale).square().sum(1).mean()) == pytest.approx(D_IN)
        assert bool(offset.any()) is center
    assert scaling(mean, mean_square, normalize=False)[1] == 1.0


@pytest.mark.parametrize("mean_square", [4.0, 4.0 + 1e-14, 3.9, math.nan, math.inf])
def test_activations_that_do_not_vary_are_refused(mean_square: float) -> None:
    with pytest.raises(TrainingError, match="nothing to learn"):
        scaling(torch.ones(4), mean_square)
