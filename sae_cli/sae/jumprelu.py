"""JumpReLU: a learned threshold per latent, trained towards a target L0.

Rajamanoharan et al. 2024, "Jumping Ahead" (arXiv 2407.14435), sections 3 and 4, with
pi = W_enc x + b_enc and the pseudo-derivatives of their straight-through estimator:

    f = pi * H(pi - theta)
    d f / d theta             = -(theta / eps) K((pi - theta) / eps)
    d H(pi - theta) / d theta = -(1 / eps) K((pi - theta) / eps)

with K the rectangle [|u| < 1/2] on the pre-activation (not on f, which is zero below the threshold
and would lose half the window). The penalty aims at a target L0, and the error is measured as
FVU, so that the coefficient means the same everywhere:

    L = |x_hat - x|^2 / Var(x)  +  c w(t) [ r^2 + m r ],   r = L0 / L0* - 1

w rises linearly from zero. r^2 alone settles where its slope balances the error's, a little off
the target; m, which integrates r step by step (the method of multipliers), takes the rest away and
ends as the price of a latent. Adam carries gradients of the first steps along for a thousand more,
so after each step a small common shift of all thresholds, a fraction of the Newton step towards
the target with the slope that the window gives, keeps L0 on its way meanwhile.
Thresholds are float32, trained directly (no logarithm) and kept at or above zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_cli.sae.form import (
    Form,
    Moment,
    Outcome,
    Scaled,
    batch_variance,
    remove_radial,
    renormalise,
    unit_rows,
)
from sae_cli.spec.stages import JumpReluTrain

INTEGRAL_RATE = 0.02
"""How much of r a step adds to the multiplier m."""
MULTIPLIER_LIMIT = 5.0
"""Bound on |m|, so that a long way from a far start does not wind it up."""
NEWTON_RATE = 0.15
"""Share of the Newton step by which a step moves all thresholds."""
MAX_SHIFT = 0.1
"""Bound on that shift, in bandwidths: further away the slope is not known."""
INITIAL_EXCESS = 4.0
"""Left to choose, thresholds start where the first batch has this multiple of the target L0."""


class JumpReLU(Form):
    """JumpReLU in training: unit decoder rows, enc = dec at the start."""

    arch = "jumprelu"

    def __init__(
        self, spec: JumpReluTrain, d_in: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        assert spec.width is not None
        self.target, self.coefficient, self.warmup = spec.l0, spec.l0_coefficient, spec.l0_warmup
        self.bandwidth, self.threshold_init = spec.bandwidth, spec.threshold_init
        dec = unit_rows(spec.width, d_in, generator, device)
        self.params = {
            "enc": dec.clone(),
            "dec": dec,
            "b_enc": torch.zeros(spec.width, device=device),
            "b_dec": torch.zeros(d_in, device=device),
            "threshold": torch.full((spec.width,), self.threshold_init or 0.0, device=device),
        }
        self.buffers = {"multiplier": torch.zeros((), device=device)}

    def begin(self, z: Tensor) -> None:
        """Choose thresholds so that each latent fires equally often on the first batch."""
        if self.threshold_init is not None:
            return
        width, rows = self.params["dec"].shape[0], z.shape[0]
        share = min(0.5, INITIAL_EXCESS * self.target / width)
        rank = max(1, round(share * rows))
        pre = torch.addmm(self.params["b_enc"], z, self.params["enc"].T)
        cut = pre.topk(rank, dim=0).values[-1]
        self.params["threshold"].copy_(cut.clamp_min(0.0))

    def gradients(self, z: Tensor, moment: Moment, dead: Tensor | None) -> Outcome:
        """See `Form.gradients`. Dead latents get no extra loss."""
        enc, dec, b_enc, b_dec = (self.params[n] for n in ("enc", "dec", "b_enc", "b_dec"))
        theta, rows = self.params["threshold"], z.shape[0]
        pre = torch.addmm(b_enc, z, enc.T)
        on = pre > theta
        f = pre * on
        error = torch.addmm(b_dec, f, dec) - z
        variance, squared = batch_variance(z), error.square().sum()
        fires = on.sum(0)
        l0 = fires.sum().to(z.dtype) / rows
        excess = l0 / self.target - 1.0
        weight = self.coefficient * moment.ramp(self.warmup)
        slope = weight * (2.0 * excess + self.buffers["multiplier"]) / self.target
        grad = error * (2.0 / variance)
        f_grad = grad @ dec.T
        near = (pre - theta).abs_() < self.bandwidth / 2
        through_f = theta * (f_grad * near).sum(0)
        through_l0 = near.sum(0) * (slope / rows)
        pre_grad = f_grad.mul_(on)
        grads = {
            "enc": pre_grad.T @ z,
            "dec": remove_radial(f.T @ grad, dec),
            "b_enc": pre_grad.sum(0),
            "b_dec": grad.sum(0),
            "threshold": -(through_f + through_l0) / self.bandwidth,
        }
        penalty = excess.square() + self.buffers["multiplier"] * excess
        return Outcome(
            grads, squared / variance + weight * penalty, squared, variance,
            l0=l0, fired=fires > 0,
            extra={
                "coefficient": slope * self.target,
                "threshold": theta.mean(),
                "l0_slope": near.sum() / (rows * self.bandwidth),
            },
        )  # fmt: skip

    def settle(self, outcome: Outcome, moment: Moment) -> None:
        """Unit decoder rows, thresholds at or above zero, one step of the two controllers."""
        renormalise(self.params["dec"])
        excess = (outcome.l0 / self.target - 1.0).clamp(-1.0, 1.0)
        multiplier = self.buffers["multiplier"]
        multiplier.add_(excess * INTEGRAL_RATE).clamp_(-MULTIPLIER_LIMIT, MULTIPLIER_LIMIT)
        slope = outcome.extra["l0_slope"].clamp_min(torch.finfo(excess.dtype).tiny)
        newton, reach = excess * self.target / slope, MAX_SHIFT * self.bandwidth
        shift = (newton * NEWTON_RATE).clamp(-reach, reach) * moment.ramp(self.warmup)
        self.params["threshold"].add_(shift).clamp_min_(0.0)

    def scaled(self) -> Scaled:
        p = self.params
        return Scaled(
            self.arch, p["enc"], p["dec"], p["b_enc"], p["b_dec"], threshold=p["threshold"]
        )
