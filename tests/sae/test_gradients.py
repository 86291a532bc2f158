"""Every gradient written by hand against float64 autograd of the formula in the paper."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_cli.sae.form import Form, Moment
from sae_cli.sae.jumprelu import JumpReLU
from sae_cli.sae.relu_l1 import ReluL1
from sae_cli.sae.topk import TopK
from sae_cli.spec.train import JumpReluTrain, ReluL1Train, TopKTrain

D_IN, D_SAE, ROWS = 8, 32, 61
CPU = torch.device("cpu")
MIDWAY = Moment(step=50, total=100)


def _shaken(form: Form, free_decoder: bool = False) -> Form:
    """The form in float64, away from its special starting point."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in form.params.items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        form.params[name] = tensor.double() + 0.2 * noise
    form.buffers = {n: t.double() for n, t in form.buffers.items()}
    if not free_decoder:
        form.params["dec"] /= form.params["dec"].norm(dim=1, keepdim=True)
    return form


def _batch() -> Tensor:
    return torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def _leaves(form: Form) -> dict[str, Tensor]:
    return {n: t.clone().requires_grad_() for n, t in form.params.items()}


def _agree(form: Form, got: dict[str, Tensor], loss: Tensor, leaves: dict[str, Tensor]) -> None:
    wanted = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    if not isinstance(form, ReluL1):
        dec = form.params["dec"]
        wanted["dec"] = wanted["dec"] - (wanted["dec"] * dec).sum(1, keepdim=True) * dec
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-9, atol=1e-12)


def _fvu(error: Tensor, z: Tensor) -> Tensor:
    return error.square().sum() / (z - z.mean(0)).square().sum()


def _topk(**fields: Any) -> TopK:
    spec = TopKTrain(width=D_SAE, k=4, **fields)
    form = _shaken(TopK(spec, D_IN, torch.Generator().manual_seed(0), CPU))
    assert isinstance(form, TopK)
    return form


@pytest.mark.parametrize("auxk", [2, 64], ids=["fewer than dead", "more than dead"])
@pytest.mark.parametrize("dead", [None, [3, 17, 30, 31]], ids=["none dead", "some dead"])
def test_topk(dead: list[int] | None, auxk: int) -> None:
    form, z = _topk(auxk=auxk, auxk_alpha=0.3), _batch()
    ids = None if dead is None else torch.tensor(dead)
    outcome = form.gradients(z, MIDWAY, ids)
    p = _leaves(form)
    pre = z @ p["enc"].T + p["b_enc"]
    kept = torch.zeros_like(pre).scatter_(1, pre.topk(4).indices, 1.0)
    error = (pre.relu() * kept) @ p["dec"] + p["b_dec"] - z
    loss = _fvu(error, z)
    if dead is not None:
        only = torch.zeros(D_SAE, dtype=torch.float64)
        only[dead] = 1.0
        dead_pre = (pre.relu() + 1e-300) * only
        kept = torch.zeros_like(pre).scatter_(1, dead_pre.topk(min(auxk, 4)).indices, 1.0)
        residual = -error.detach()
        loss = loss + 0.3 * _fvu((pre.relu() * kept * only) @ p["dec"] - residual, residual)
    _agree(form, outcome.grads, loss, p)
    torch.testing.assert_close(outcome.loss, loss.detach())


def test_the_auxiliary_loss_reaches_the_encoder_of_dead_latents() -> None:
    form, z = _topk(), _batch()
    form.params["enc"][7] *= 0.05
    form.params["b_enc"][7] = 0.0
    without = form.gradients(z, MIDWAY, None).grads
    assert not without["enc"][7].any(), "latent 7 should be silent on this batch"
    revived = form.gradients(z, MIDWAY, torch.tensor([7])).grads
    for name in ("enc", "dec", "b_enc"):
        assert revived[name][7].any(), name


def test_the_auxiliary_loss_leaves_living_latents_alone() -> None:
    form, z = _topk(), _batch()
    without = form.gradients(z, MIDWAY, None).grads
    revived = form.gradients(z, MIDWAY, torch.tensor([7])).grads
    for name in ("enc", "dec", "b_enc"):
        others = torch.arange(D_SAE) != 7
        assert torch.equal(without[name][others], revived[name][others]), name
    assert torch.equal(without["b_dec"], revived["b_dec"])


each_way = pytest.mark.parametrize("sparse", [0.0, 1.0], ids=["dense", "sparse"])


@each_way
def test_relu_l1_halfway_through_its_warm_up(sparse: float) -> None:
    spec = ReluL1Train(arch="relu_l1", width=D_SAE, l1=3.0, l1_warmup=1.0, lr_decay=0.0)
    form = ReluL1(spec, D_IN, torch.Generator().manual_seed(0), CPU)
    _shaken(form, free_decoder=True)
    z, form.sparse_below = _batch(), sparse
    outcome = form.gradients(z, MIDWAY, None)
    assert float(outcome.extra["sparse"]) == sparse
    p = _leaves(form)
    f = (z @ p["enc"].T + p["b_enc"]).relu()
    error = f @ p["dec"] + p["b_dec"] - z
    penalty = (f * p["dec"].norm(dim=1)).sum(1)
    loss = (error.square().sum(1) + 1.5 * penalty).mean() / D_IN
    _agree(form, outcome.grads, loss, p)
    torch.testing.assert_close(outcome.loss, loss.detach())


class _Step(torch.autograd.Function):
    """H(pre - theta) with the rectangle's pseudo-derivative in theta only."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return (pre > theta).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        pre, theta = ctx.saved_tensors
        window = ((pre - theta).abs() < ctx.width / 2).to(pre.dtype)
        return None, -(window * grad).sum(0) / ctx.width, None


class _Jump(torch.autograd.Function):
    """pre * H(pre - theta) with the paper's pseudo-derivative in theta."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return pre * (pre > theta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        pre, theta = ctx.saved_tensors
        window = ((pre - theta).abs() < ctx.width / 2).to(pre.dtype)
        return grad * (pre > theta), -(theta / ctx.width * window * grad).sum(0), None


def _jumprelu(bandwidth: float = 0.4) -> JumpReLU:
    spec = JumpReluTrain(
        arch="jumprelu", width=D_SAE, l0=5.0, l0_coefficient=0.7, l0_warmup=1.0, lr_decay=0.0,
        bandwidth=bandwidth, threshold_init=0.8,
    )  # fmt: skip
    form = _shaken(JumpReLU(spec, D_IN, torch.Generator().manual_seed(0), CPU))
    assert isinstance(form, JumpReLU)
    form.params["threshold"].abs_()
    form.buffers["multiplier"].fill_(-0.3)
    return form


@each_way
def test_jumprelu_halfway_through_its_warm_up(sparse: float) -> None:
    form, z = _jumprelu(), _batch()
    form.sparse_below = sparse
    outcome = form.gradients(z, MIDWAY, None)
    assert float(outcome.extra["sparse"]) == sparse
    p = _leaves(form)
    pre = z @ p["enc"].T + p["b_enc"]
    jump: Any = _Jump.apply
    step: Any = _Step.apply
    error = jump(pre, p["threshold"], 0.4) @ p["dec"] + p["b_dec"] - z
    # The penalty acts on thresholds alone, so the encoder is a constant to it.
    excess = step(pre.detach(), p["threshold"], 0.4).sum(1).mean() / 5.0 - 1.0
    loss = _fvu(error, z) + 0.35 * (excess.square() - 0.3 * excess)
    assert outcome.grads["threshold"].count_nonzero() > D_SAE / 2
    _agree(form, outcome.grads, loss, p)
    torch.testing.assert_close(outcome.loss, loss.detach())


def test_the_slope_of_l0_in_a_threshold_is_minus_the_density_there() -> None:
    """A known case: of a standard normal, H(pi - theta) has mean slope -phi(theta), not half."""
    spec = JumpReluTrain(
        arch="jumprelu", width=8, l0=2.0, l0_coefficient=1.0, l0_warmup=0.0, bandwidth=0.1,
        threshold_init=0.5,
    )  # fmt: skip
    form = JumpReLU(spec, 8, torch.Generator().manual_seed(0), CPU)
    form.params["enc"] = torch.eye(8)
    form.params["dec"] = torch.zeros(8, 8)
    z = torch.randn(200_000, 8, generator=torch.Generator().manual_seed(1))
    outcome = form.gradients(z, MIDWAY, None)
    excess = float(outcome.l0) / 2.0 - 1.0
    slopes = outcome.grads["threshold"] / (2.0 * excess / 2.0)
    density = math.exp(-(0.5**2) / 2) / math.sqrt(2 * math.pi)
    assert float(slopes.mean()) == pytest.approx(-density, rel=0.02)
