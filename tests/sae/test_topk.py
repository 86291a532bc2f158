"""TopK where it is awkward: ties, everything dead, k = d_sae, no rows, and how much memory."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sae_cli.sae import selection
from sae_cli.sae.form import Moment, Outcome
from sae_cli.sae.product import has_fast_bfloat16
from sae_cli.sae.selection import encode_top_k
from sae_cli.sae.topk import TopK
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.train import TopKTrain

D_IN, D_SAE, ROWS = 8, 32, 61
CPU = torch.device("cpu")
START = Moment(step=0, total=10)


def _form(k: int, d_sae: int = D_SAE, **fields: Any) -> TopK:
    spec = TopKTrain(width=d_sae, k=k, **fields)
    form = TopK(spec, D_IN, torch.Generator().manual_seed(0), CPU)
    generator = torch.Generator().manual_seed(1)
    for name, param in form.params.items():
        noise = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        form.params[name] = param.double() + 0.1 * noise
    form.params["dec"] /= form.params["dec"].norm(dim=1, keepdim=True)
    return form


def _z(rows: int = ROWS) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, D_IN, generator=generator, dtype=torch.float64)


def _agrees(form: TopK, z: Tensor, kept: Tensor, dead: list[int] | None = None) -> Outcome:
    """The step's gradients against autograd, `kept [B, d_sae]` being what TopK should keep."""
    outcome = form.gradients(z, START, None if dead is None else torch.tensor(dead))
    p = {n: t.clone().requires_grad_() for n, t in form.params.items()}
    pre = (z @ p["enc"].T + p["b_enc"]).relu()
    error = (pre * kept) @ p["dec"] + p["b_dec"] - z
    loss = error.square().sum() / (z - z.mean(0)).square().sum()
    if dead is not None:
        assert len(dead) <= form.k_aux
        residual = -error.detach()
        missed = pre[:, dead] @ p["dec"][dead] - residual
        variance = (residual - residual.mean(0)).square().sum()
        loss = loss + form.alpha * missed.square().sum() / variance
    wanted = dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))
    dec = form.params["dec"]
    wanted["dec"] = wanted["dec"] - (wanted["dec"] * dec).sum(1, keepdim=True) * dec
    for name, gradient in wanted.items():
        torch.testing.assert_close(outcome.grads[name], gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(outcome.loss, loss.detach())
    return outcome


def test_with_k_of_all_latents_it_is_a_relu() -> None:
    outcome = _agrees(_form(D_SAE), _z(), torch.ones(ROWS, D_SAE))
    assert 0 < float(outcome.l0) < D_SAE


def test_of_twin_latents_the_first_is_kept_and_gets_the_gradient() -> None:
    form, z = _form(1), _z().mul(4).round()
    for name in ("enc", "b_enc"):  # whole numbers, so that twins tie whatever the order of sums
        form.params[name] = form.params[name].mul(8).round()
        form.params[name][D_SAE // 2 :] = form.params[name][: D_SAE // 2]
    pre = z @ form.params["enc"].T + form.params["b_enc"]
    best = pre.sort(dim=1, descending=True, stable=True).indices[:, 0]
    kept = torch.zeros(ROWS, D_SAE).scatter_(1, best[:, None], 1.0)
    outcome = _agrees(form, z, kept)
    assert not outcome.fired[D_SAE // 2 :].any() and outcome.fired.any()


def test_rows_that_are_all_alike_add_up() -> None:
    form, z = _form(3), _z()
    z[5:50] = z[5]
    pre = z @ form.params["enc"].T + form.params["b_enc"]
    kept = torch.zeros(ROWS, D_SAE).scatter_(1, pre.topk(3).indices, 1.0)
    _agrees(form, z, kept)


def test_when_all_are_dead_all_are_revived() -> None:
    form, z = _form(4, auxk=D_SAE, auxk_alpha=0.3), _z()
    form.params["b_enc"].fill_(-1.0)
    pre = z @ form.params["enc"].T + form.params["b_enc"]
    kept = torch.zeros(ROWS, D_SAE).scatter_(1, pre.topk(4).indices, 1.0)
    _agrees(form, z, kept, dead=list(range(D_SAE)))


def test_when_nothing_fires_only_the_decoders_bias_moves() -> None:
    form, z = _form(4), _z()
    form.params["b_enc"].fill_(-1e3)
    outcome = _agrees(form, z, torch.zeros(ROWS, D_SAE))
    assert float(outcome.l0) == 0 and not outcome.fired.any()
    assert outcome.grads["b_dec"].any() and not outcome.grads["enc"].any()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_batch_of_no_rows_moves_nothing(precision: str) -> None:
    form = _form(4, precision=precision, d_sae=64, auxk_alpha=0.0)
    form.params = {n: t.float() for n, t in form.params.items()}
    outcome = form.gradients(_z(0).float(), START, None)
    for gradient in outcome.grads.values():
        assert not gradient.any()
    assert not outcome.fired.any() and float(outcome.l0) == 0.0


def test_candidates_hold_what_float32_would_keep() -> None:
    generator = torch.Generator().manual_seed(0)
    z, enc = (torch.randn(n, 128, generator=generator) for n in (300, 2048))
    bias = torch.zeros(2048)
    exact = encode_top_k(z, enc, bias, 16)
    nominated = encode_top_k(z, enc, bias, 16, bfloat16=True, margin=8)
    assert exact.at_edge is None
    if has_fast_bfloat16(CPU):
        assert nominated.at_edge is not None and float(nominated.at_edge) < 0.05
    same = exact.indices.sort().values == nominated.indices.sort().values
    assert same.all(1).float().mean() > 0.99
    rows = same.all(1)
    torch.testing.assert_close(nominated.values[rows], exact.values[rows], rtol=1e-5, atol=1e-5)


def test_candidates_are_of_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nominated in bfloat16 wherever the test runs: the product is slow elsewhere, not wrong."""
    monkeypatch.setattr(selection, "has_fast_bfloat16", lambda device: True)
    generator = torch.Generator().manual_seed(0)
    for width in (64, 72, 520, 1000):
        z, enc = (torch.randn(n, 32, generator=generator) for n in (40, width))
        got = encode_top_k(z, enc, torch.zeros(width), 4, bfloat16=True)
        wanted = encode_top_k(z, enc, torch.zeros(width), 4)
        assert got.at_edge is not None
        agree = (got.indices.sort().values == wanted.indices.sort().values).all(1)
        assert agree.float().mean() > 0.9, width


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the most elements that a tensor made by any operation has."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.most = max(self.most, *sizes, 0)
        return out


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_tensor_grows_with_both_the_batch_and_the_width(
    precision: Literal["float32", "bfloat16"],
) -> None:
    d_in, width, rows = 16, 16_384, 2048
    spec = TopKTrain(width=width, k=8, precision=precision, dead_after=1, auxk=4, lr=1e-3)
    trainer = Trainer(spec, d_in, torch.zeros(d_in), 1.0, "cpu", 3)
    generator = torch.Generator().manual_seed(0)
    with _Largest() as largest:
        for _ in range(2):
            trainer.step(torch.randn(rows, d_in, generator=generator))
    assert "aux_loss" in trainer.log()
    assert width * d_in <= largest.most <= rows * width / 4
