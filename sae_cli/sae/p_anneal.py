"""p-anneal: an L1 penalty that turns into something near a count, step by step.

Karvonen et al. 2024, "Measuring Progress in Dictionary Learning" (arXiv 2408.00113), section 5:

    f = relu(W_enc x + b_enc)
    L = |x_hat - x|^2 + lambda_p * sum_i f_i^p,      p = 1 -> p_end in equal steps

with unit decoder rows. p = 1 is convex and finds a good place; a smaller p punishes large
activations less and so takes the shrinkage away. When p becomes p', lambda is scaled by
mean(sum f^p) / mean(sum f^p') over the batches just before, which keeps the penalty's size.

f^p is infinitely steep at zero, so the power is taken of f + delta, with delta small beside an
activation that matters, and the value at zero subtracted. The loss is divided by d_in (see
`relu_l1`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_cli.sae.form import (
    Form,
    Moment,
    Outcome,
    Scaled,
    batch_variance,
    remove_radial,
    unit_rows,
)
from sae_cli.sae.relu_l1 import DEFAULT_L1
from sae_cli.spec.train import PAnnealTrain

DELTA = 0.01
"""Added to an activation before its power is taken, in scaled units."""
WINDOW = 10
"""Steps before a change of p over which the penalties of both exponents are compared."""


class PAnneal(Form):
    """p-anneal in training: unit decoder rows, enc = dec at the start."""

    arch = "relu_l1"
    unit = ("dec",)

    def __init__(
        self, spec: PAnnealTrain, d_in: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        assert spec.width is not None
        self.l1 = spec.l1 if spec.l1 is not None else math.sqrt(d_in) * DEFAULT_L1
        self.spec = spec
        dec = unit_rows(spec.width, d_in, generator, device)
        self.params = {
            "enc": dec.clone(),
            "dec": dec,
            "b_enc": torch.zeros(spec.width, device=device),
            "b_dec": torch.zeros(d_in, device=device),
        }
        self.buffers = {
            "factor": torch.ones((), device=device),
            "now": torch.zeros((), device=device),
            "next": torch.zeros((), device=device),
        }

    def exponent(self, step: int, total: int) -> float:
        """p at a step, counted from 0: 1 at first, `spec.p` from the last of its steps on."""
        start, end, n = self.spec.p_start * total, self.spec.p_end * total, self.spec.p_steps
        if step < start:
            done = 0
        elif step >= end:
            done = n
        else:
            done = min(n, 1 + math.floor((step - start) / (end - start) * (n - 1)))
        return 1.0 - (1.0 - self.spec.p) * done / n

    def gradients(self, z: Tensor, moment: Moment, dead: Tensor | None) -> Outcome:
        """See `Form.gradients`. Dead latents get no help."""
        enc, dec, b_enc, b_dec = (self.params[n] for n in ("enc", "dec", "b_enc", "b_dec"))
        weight, rows = 1.0 / max(1, z.numel()), max(1, z.shape[0])
        p = self.exponent(moment.step, moment.total)
        price = self.buffers["factor"] * (self.l1 * moment.ramp(self.spec.l1_warmup))
        f = torch.addmm(b_enc, z, enc.T).relu_()
        error = torch.addmm(b_dec, f, dec) - z
        grad = error * (2.0 * weight)
        on = f > 0
        slope = (f + DELTA).pow_(p - 1.0).mul_(price * (p * weight))
        pre_grad = slope.addmm_(grad, dec.T).mul_(on)
        grads = {
            "enc": pre_grad.T @ z,
            "dec": remove_radial(f.T @ grad, dec),
            "b_enc": pre_grad.sum(0),
            "b_dec": grad.sum(0),
        }
        squared, penalty = error.square().sum(), _penalty(f, p)
        extra = {"coefficient": price, "p": squared.new_tensor(p), "penalty": penalty / rows}
        soon = self._next(moment)
        if soon is not None:
            extra["penalty_next"] = _penalty(f, soon) / rows
        fires = on.sum(0)
        return Outcome(
            grads, (squared + price * penalty) * weight, squared, batch_variance(z),
            l0=fires.sum() / rows, fired=fires > 0, extra=extra,
        )  # fmt: skip

    def _next(self, moment: Moment) -> float | None:
        """The exponent that takes over within `WINDOW` steps, if one does."""
        now = self.exponent(moment.step, moment.total)
        ahead = range(moment.step + 1, moment.step + 1 + WINDOW)
        coming = (self.exponent(step, moment.total) for step in ahead)
        return next((p for p in coming if p != now), None)

    def settle(self, outcome: Outcome, moment: Moment) -> None:
        """Lambda follows p."""
        if "penalty_next" not in outcome.extra:
            return
        factor, now, soon = (self.buffers[n] for n in ("factor", "now", "next"))
        now.add_(outcome.extra["penalty"])
        soon.add_(outcome.extra["penalty_next"])
        here = self.exponent(moment.step, moment.total)
        if self.exponent(moment.step + 1, moment.total) != here:
            factor.mul_(torch.where(soon > 0, now / soon, 1.0))
            now.zero_()
            soon.zero_()

    def scaled(self) -> Scaled:
        p = self.params
        return Scaled(self.arch, p["enc"], p["dec"], p["b_enc"], p["b_dec"])


def _penalty(f: Tensor, p: float) -> Tensor:
    """Sum of (f + delta)^p - delta^p over all entries of `f`."""
    total: Tensor = ((f + DELTA).pow_(p) - DELTA**p).sum()
    return total
