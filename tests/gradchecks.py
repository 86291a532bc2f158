"""Hand-written gradients against float64 autograd of the formula, written densely and anew."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sae_cli.sae.form import Form, Moment, Outcome
from sae_cli.sae.forms import make_form
from sae_cli.spec.train_base import TrainBase

D_IN, D_SAE, ROWS = 8, 32, 61
MIDWAY = Moment(step=50, total=100)
Params = dict[str, Tensor]


def shaken(spec: TrainBase, free_decoder: bool = False) -> Form:
    """The form of `spec` in float64, away from its special starting point."""
    form = make_form(spec, D_IN, torch.device("cpu"))
    generator = torch.Generator().manual_seed(5)
    for name, tensor in form.params.items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        form.params[name] = tensor.double() + 0.2 * noise
    form.buffers = {n: t.double() for n, t in form.buffers.items()}
    if not free_decoder:
        form.params["dec"] /= form.params["dec"].norm(dim=1, keepdim=True)
    return form


def batch(rows: int = ROWS) -> Tensor:
    return torch.randn(rows, D_IN, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def check(
    form: Form,
    z: Tensor,
    loss_of: Callable[[Params], Tensor],
    dead: list[int] | None = None,
    moment: Moment = MIDWAY,
    free_decoder: bool = False,
    target: Tensor | None = None,
) -> Outcome:
    """Loss and every gradient of `form` are those of `loss_of(its parameters)`; `target` is what a
    transcoder predicts."""
    before = {n: t.clone() for n, t in (form.params | form.buffers).items()}
    told = () if target is None else (target,)
    outcome = form.gradients(z, moment, None if dead is None else torch.tensor(dead), *told)
    for name, tensor in (form.params | form.buffers).items():
        assert torch.equal(before[name], tensor), f"gradients() changed {name}"
    leaves = {n: t.clone().requires_grad_() for n, t in form.params.items()}
    loss = loss_of(leaves)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    wanted = {
        n: torch.zeros_like(p) if g is None else g
        for (n, p), g in zip(leaves.items(), found, strict=True)
    }
    if not free_decoder:  # unit rows move on their sphere alone
        dec = form.params["dec"]
        wanted["dec"] = wanted["dec"] - (wanted["dec"] * dec).sum(1, keepdim=True) * dec
    assert outcome.grads.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            outcome.grads[name], gradient, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
        )
    torch.testing.assert_close(outcome.loss, loss.detach())
    return outcome


def silent(form: Form, z: Tensor) -> None:
    """An empty batch: nothing fires, no gradient, a loss of zero."""
    outcome = form.gradients(z[:0], MIDWAY, None)
    assert float(outcome.loss) == 0.0 and float(outcome.l0) == 0.0
    assert not outcome.fired.any()
    for name, gradient in outcome.grads.items():
        assert gradient.shape == form.params[name].shape and not gradient.any(), name


def fvu(error: Tensor, z: Tensor) -> Tensor:
    """Squared error over the variance of `z` about its mean, a scalar."""
    return error.square().sum() / (z - z.mean(0)).square().sum()


def largest(f: Tensor, count: int) -> Tensor:
    """0/1 mask `[B, d_sae]` of the `count` largest entries of `f`; of equals the first ones."""
    order = f.flatten().argsort(descending=True, stable=True)[:count]
    return torch.zeros_like(f).flatten().index_fill_(0, order, 1.0).view_as(f)


def auxiliary(p: Params, z: Tensor, error: Tensor, dead: list[int], k_aux: int) -> Tensor:
    """TopK's loss for dead latents (Gao et al. 2024, A.2), dense: k_aux of them in each row."""
    f = (z @ p["enc"].T + p["b_enc"]).relu()[:, dead]
    kept = torch.stack([largest(row, min(k_aux, len(dead))) for row in f])
    residual = -error.detach()
    return fvu((f * kept) @ p["dec"][dead] - residual, residual)
