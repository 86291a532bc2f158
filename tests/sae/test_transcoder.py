"""Transcoders: every gradient against the formula, exact units, recovery of a known map, resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gradchecks import MIDWAY, Params, auxiliary, check, fvu, largest
from torch import Tensor

from sae_cli.errors import TrainingError
from sae_cli.sae.base import SAE
from sae_cli.sae.fold import scaling
from sae_cli.sae.form import Form
from sae_cli.sae.forms import make_form
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.train import ARCHITECTURES

CPU = torch.device("cpu")
D_IN, D_OUT, D_SAE, ROWS = 8, 12, 32, 61
SPARSITY: dict[str, dict[str, Any]] = {
    "topk": {"k": 4}, "batchtopk": {"k": 4}, "jumprelu": {"l0": 4.0, "threshold_init": 0.3},
}  # fmt: skip
SKIPS = pytest.mark.parametrize("skip", [False, True])
KINDS = pytest.mark.parametrize("arch", list(SPARSITY))


def spec(arch: str, skip: bool = False, **fields: Any) -> Any:
    plain = {"width": D_SAE, "arch": arch, "out_site": "mlp_out", "skip": skip}
    return ARCHITECTURES[arch](**plain | SPARSITY[arch] | fields)


def form_of(arch: str, skip: bool) -> Form:
    form = make_form(spec(arch, skip), D_IN, CPU, d_out=D_OUT)
    noise = torch.Generator().manual_seed(5)
    for name, tensor in form.params.items():
        shaken = torch.randn(tensor.shape, generator=noise, dtype=torch.float64)
        form.params[name] = tensor.double() + 0.2 * shaken
    form.buffers = {n: t.double() for n, t in form.buffers.items()}
    form.params["dec"] /= form.params["dec"].norm(dim=1, keepdim=True)
    return form


def pair(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    both = torch.randn(
        rows, D_IN + D_OUT, generator=torch.Generator().manual_seed(6), dtype=torch.float64
    )
    return both[:, :D_IN], both[:, D_IN:]


def predicted(p: Params, z: Tensor, f: Tensor) -> Tensor:
    out = f @ p["dec"] + p["b_dec"]
    return out + z @ p["skip"].T if "skip" in p else out


@SKIPS
@pytest.mark.parametrize("dead", [None, [1, 5, 30]])
@pytest.mark.parametrize("arch", ["topk", "batchtopk"])
def test_gradients_are_those_of_the_formula(arch: str, skip: bool, dead: list[int] | None) -> None:
    form, (z, t) = form_of(arch, skip), pair()

    def loss(p: Params) -> Tensor:
        f = (z @ p["enc"].T + p["b_enc"]).relu()
        if arch == "topk":
            kept = torch.stack([largest(row, 4) for row in f.detach()])
        else:
            kept = largest(f.detach(), 4 * ROWS)
        error = predicted(p, z, f * kept) - t
        total = fvu(error, t)
        if dead is None:
            return total
        return total + 1 / 32 * auxiliary(p, z, error, dead, 4)

    check(form, z, loss, dead, target=t)


@SKIPS
@pytest.mark.parametrize("sparse", [False, True])
def test_the_gradient_of_jumprelu_is_that_of_its_estimator(skip: bool, sparse: bool) -> None:
    form, (z, t) = form_of("jumprelu", skip), pair()
    form.params["threshold"] = form.params["threshold"].abs()
    form.sparse_below = 2.0 if sparse else -1.0
    found = form.gradients(z, MIDWAY, None, t)
    p = {n: x.clone().requires_grad_() for n, x in form.params.items()}
    pre, theta, eps = z @ p["enc"].T + p["b_enc"], p["threshold"], form.bandwidth
    on, near = (pre > theta).double(), ((pre - theta).abs() < eps / 2).double()
    f = (pre * on).detach()
    error = (predicted(p, z, pre * on.detach()) - t).square().sum()
    error = error / (t - t.mean(0)).square().sum()
    others = [name for name in p if name != "threshold"]
    wanted = dict(zip(others, torch.autograd.grad(error, [p[n] for n in others]), strict=True))
    dec = form.params["dec"]
    wanted["dec"] -= (wanted["dec"] * dec).sum(1, keepdim=True) * dec
    for name, gradient in wanted.items():
        torch.testing.assert_close(found.grads[name], gradient, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        grad = 2 * (predicted(p, z, f) - t) / (t - t.mean(0)).square().sum()
        through_f = ((grad @ dec.T) * near).sum(0)
        slope = form.coefficient * 2 * (on.sum() / ROWS / 4 - 1) / 4 * MIDWAY.ramp(0.1)
        want = -(theta * through_f + near.sum(0) * slope / ROWS) / eps
    torch.testing.assert_close(found.grads["threshold"], want, rtol=1e-9, atol=1e-11)
    assert float(found.extra["sparse"]) == sparse


@KINDS
@SKIPS
def test_folded_it_predicts_in_raw_units(arch: str, skip: bool) -> None:
    """The trainer's own prediction on scaled rows, brought back, is the finished SAE's on raw."""
    x, y = (part.float() * 3 + 5 for part in pair(400))
    trainer = trained(arch, skip, x, y, steps=5)
    sae = trainer.finish()
    assert sae is not None and (sae.d_in, sae.d_out) == (D_IN, D_OUT)
    p, z = trainer.form.params, trainer.prepare(x)
    pre = z @ p["enc"].T + p["b_enc"]
    if arch == "topk":
        f = torch.stack([largest(row, 4) for row in pre.relu()]) * pre.relu()
    else:
        theta = p["threshold"] if arch == "jumprelu" else trainer.form.buffers["threshold"]
        f = pre.relu() * (pre > theta)
    scaled = predicted(p, z, f)
    mean, scale = trainer._target  # type: ignore[misc]
    torch.testing.assert_close(
        sae.forward(x), (scaled / scale + mean).float(), rtol=1e-4, atol=1e-4
    )
    assert (sae.W_skip is not None) == skip
    assert SAE.from_tensors(sae.tensors(), sae.arch, sae.k).d_out == D_OUT


def trained(
    arch: str,
    skip: bool,
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    batch: int = 128,
    part: range | None = None,
    state: Any = None,
    **fields: Any,
) -> Trainer:
    """A trainer after `steps` steps on random rows of a pair, or those in `part`, from `state`."""
    made = spec(arch, skip, num_tokens=steps * batch, batch_size=batch, lr_warmup=0.1, **fields)
    (mean, scale), target = (
        scaling(side.mean(0).double(), float(side.double().square().sum(1).mean()))
        for side in (x, y)
    )
    trainer = Trainer(made, x.shape[1], mean, scale, "cpu", steps, target=target)
    if state is not None:
        trainer.load_state_dict(*state)
    draw = torch.Generator().manual_seed(3)
    for number in range(steps):
        rows = torch.randint(len(x), (batch,), generator=draw)
        if part is None or number in part:
            trainer.step(x[rows], y[rows])
    if trainer.calibrates and part is None:
        trainer.calibrate(lambda: iter([x]))
    return trainer


@KINDS
def test_it_finds_the_features_of_a_map_between_two_dictionaries(arch: str) -> None:
    """Sparse causes seen through one dictionary and to be told in another, of other size."""
    generator = torch.Generator().manual_seed(0)
    causes, d_in, d_out, rows = 48, 32, 40, 8_000
    into, out = (torch.randn(causes, d, generator=generator) for d in (d_in, d_out))
    into, out = into / into.norm(dim=1, keepdim=True), out / out.norm(dim=1, keepdim=True)
    on = torch.rand(rows, causes, generator=generator) < 0.05
    amount = on * (0.5 + torch.rand(rows, causes, generator=generator))
    x, y = amount @ into, amount @ out
    trainer = trained(
        arch, False, x, y, steps=600, batch=256, width=96,
        **({"l0": 3.0, "threshold_init": None} if arch == "jumprelu" else {"k": 3}),
    )  # fmt: skip
    sae = trainer.finish()
    assert sae is not None
    found = (out @ sae.W_dec.T).abs().amax(1)
    assert float(found.mean()) > 0.9
    left = (sae.forward(x) - y).square().sum() / (y - y.mean(0)).square().sum()
    assert float(left) < 0.2


def test_a_skip_takes_what_is_linear() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, D_IN, generator=generator)
    linear = torch.randn(D_IN, D_OUT, generator=generator)
    y = x @ linear + 2.0
    with_skip, without = (
        trained("topk", skip, x, y, steps=600, lr=0.01).finish() for skip in (True, False)
    )
    lost = [
        float((sae.forward(x) - y).square().sum() / (y - y.mean(0)).square().sum())
        for sae in (with_skip, without)
        if sae is not None
    ]
    assert lost[0] < 0.01 < 0.05 < lost[1]


@KINDS
def test_it_goes_on_with_the_same_bits(arch: str) -> None:
    x, y = (side.float() for side in pair(600))
    how = {"steps": 12, "ema_decay": 0.9, "dead_after": 200}
    whole = trained(arch, True, x, y, part=range(12), **how).state_dict()
    first = trained(arch, True, x, y, part=range(5), **how).state_dict()
    again = trained(arch, True, x, y, part=range(5, 12), state=first, **how).state_dict()
    assert whole[1] == again[1]
    for name, tensor in whole[0].items():
        assert torch.equal(tensor, again[0][name]), name


@KINDS
@pytest.mark.parametrize("side", ["read", "predicted"])
def test_a_row_that_is_not_finite_ends_it(arch: str, side: str) -> None:
    x, y = (part.float().clone() for part in pair(600))
    trainer = trained(arch, False, x, y, steps=5, part=range(3), dead_after=10**6)
    (x if side == "read" else y)[7, 2] = float("nan")
    with pytest.raises(TrainingError, match="is nan at step 3"):
        trainer.step(x[:128], y[:128])
