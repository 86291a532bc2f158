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

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_cli.sae.activity import SPARSE_BELOW, Entries, dense_parts, entries_above
from sae_cli.sae.form import (
    Moment,
    Outcome,
    Scaled,
    batch_variance,
    remove_radial,
    unit_rows,
)
from sae_cli.sae.product import linear
from sae_cli.sae.transcoder import Transcoding
from sae_cli.spec.train import JumpReluTrain

INTEGRAL_RATE = 0.02
"""How much of r a step adds to the multiplier m."""
MULTIPLIER_LIMIT = 5.0
"""Bound on |m|, so that a long way from a far start does not wind it up."""
NEWTON_RATE = 0.15
"""Share of the Newton step by which a step moves all thresholds."""
MAX_SHIFT = 0.1
"""Bound on that shift, in bandwidths: further away the slope is not known."""
START_LATENTS = 1024
"""Latents whose first threshold is looked for at a time."""
INITIAL_EXCESS = 4.0
"""Left to choose, thresholds start where the first batch has this multiple of the target L0."""


@dataclass
class _Sums:
    """Sums over a batch."""

    grads: dict[str, Tensor]
    """Of the error, before the projection of the decoder's; without the threshold's."""
    squared_error: Tensor
    through_f: Tensor
    """[d_sae]: of d(error) / d f where the pre-activation is near its threshold"""
    near: Tensor
    """[d_sae]: how many are"""
    fires: Tensor
    """[d_sae]: how many are above"""

    @classmethod
    def zeros(cls, params: dict[str, Tensor]) -> _Sums:
        kept = {name: torch.zeros_like(p) for name, p in params.items() if name != "threshold"}
        each = torch.zeros_like(params["threshold"])
        counts = torch.zeros_like(each, dtype=torch.int64)
        return cls(kept, each.new_zeros(()), each, counts, counts.clone())


class JumpReLU(Transcoding):
    """JumpReLU in training: unit decoder rows, enc = dec at the start."""

    arch = "jumprelu"
    unit = ("dec",)

    def __init__(
        self, spec: JumpReluTrain, d_in: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        assert spec.width is not None
        self.target, self.coefficient, self.warmup = spec.l0, spec.l0_coefficient, spec.l0_warmup
        self.bandwidth, self.threshold_init = spec.bandwidth, spec.threshold_init
        self.sparse_below = SPARSE_BELOW
        dec = unit_rows(spec.width, d_in, generator, device)
        self.params = {
            "enc": dec.clone(),
            "dec": dec,
            "b_enc": torch.zeros(spec.width, device=device),
            "b_dec": torch.zeros(d_in, device=device),
            "threshold": torch.full((spec.width,), self.threshold_init or 0.0, device=device),
        }
        self.buffers = {"multiplier": torch.zeros((), device=device)}

    def begin(self, z: Tensor, target: Tensor | None = None) -> None:
        """Choose thresholds so that each latent fires equally often on the first batch."""
        super().begin(z, target)
        if self.threshold_init is not None:
            return
        width, rows = self.params["dec"].shape[0] * self.mesh.latent, z.shape[0]
        share = min(0.5, INITIAL_EXCESS * self.target / width)
        rank = max(1, round(share * rows))
        whole = (self.params[name] for name in ("enc", "b_enc", "threshold"))
        for enc, b_enc, theta in zip(*(torch.split(t, START_LATENTS) for t in whole), strict=True):
            cut = linear(enc, z).topk(rank, dim=1).values[:, -1] + b_enc
            theta.copy_(cut.clamp_min(0.0))

    def gradients(
        self, z: Tensor, moment: Moment, dead: Tensor | None, target: Tensor | None = None
    ) -> Outcome:
        """See `Transcoding.gradients`. Dead latents get no extra loss."""
        theta, half, mesh = self.params["threshold"], self.bandwidth / 2, self.mesh
        rows = max(1, z.shape[0] * mesh.data)
        variance = batch_variance(z if target is None else target, mesh)
        entries = mesh.all_or_none(
            entries_above(
                z, self.params["enc"], self.params["b_enc"], theta - half, self.sparse_below
            )
        )
        unit = 2.0 / variance.clamp_min(torch.finfo(z.dtype).tiny)
        goal = self.goal(z, target)
        if entries is None:
            sums = self._dense(z, goal, unit)
        else:
            sums = self._sparse(z, goal, unit, entries)
        squared = mesh.sum_data(sums.squared_error)
        l0 = mesh.sum_all(sums.fires.sum()).to(z.dtype) / rows
        excess = l0 / self.target - 1.0
        weight = self.coefficient * moment.ramp(self.warmup)
        slope = weight * (2.0 * excess + self.buffers["multiplier"]) / self.target
        through_l0 = sums.near * (slope / rows)
        grads = sums.grads
        grads["threshold"] = -(theta * sums.through_f + through_l0) / self.bandwidth
        remove_radial(grads["dec"], self.params["dec"])
        penalty = excess.square() + self.buffers["multiplier"] * excess
        loss = squared * unit / 2.0 + weight * penalty
        return Outcome(
            grads, loss, squared, variance, l0=l0, fired=sums.fires > 0,
            extra={
                "coefficient": slope * self.target,
                "threshold": mesh.sum_latent(theta.mean()) / mesh.latent,
                "l0_slope": mesh.sum_all(sums.near.sum()) / (rows * self.bandwidth),
                "sparse": theta.new_tensor(float(entries is not None)),
            },
        )  # fmt: skip

    def _dense(self, z: Tensor, goal: Tensor, unit: Tensor) -> _Sums:
        p, theta, half = self.params, self.params["threshold"], self.bandwidth / 2
        sums = _Sums.zeros(p)
        by_input, b_dec = p["dec"].T.contiguous(), self.mesh.once(p["b_dec"])
        for rows, wanted in zip(dense_parts(z), dense_parts(goal), strict=True):
            pre = linear(rows, p["enc"], p["b_enc"])
            on = pre > theta
            near = (pre - theta).abs_() < half
            f = pre.mul_(on)
            error = self.mesh.sum_latent(linear(f, by_input, b_dec)).sub_(wanted)
            sums.squared_error += error.square().sum()
            grad = error.mul_(unit)
            sums.grads["dec"].addmm_(f.T, grad)
            sums.grads["b_dec"] += grad.sum(0)
            if "skip" in p:
                sums.grads["skip"].addmm_(grad.T, rows)
            sums.fires += on.sum(0)
            sums.near += near.sum(0)
            f_grad = linear(grad, p["dec"])
            sums.through_f += (f_grad * near).sum(0)
            pre_grad = f_grad.mul_(on)
            sums.grads["enc"].addmm_(pre_grad.T, rows)
            sums.grads["b_enc"] += pre_grad.sum(0)
        return sums

    def _sparse(self, z: Tensor, goal: Tensor, unit: Tensor, high: Entries) -> _Sums:
        """`high` are the entries above the lower end of the window: all active, all near."""
        dec, b_dec, theta = (self.params[n] for n in ("dec", "b_dec", "threshold"))
        rows, d_sae = z.shape[0], dec.shape[0]
        cut = theta[high.latents]
        fires, near = high.values > cut, (high.values - cut).abs_() < self.bandwidth / 2
        on = high.where(fires)
        active = self.backend.Ragged(on.rows, on.latents, on.values, rows, d_sae)
        error = self.mesh.sum_latent(active.decode(dec)).add_(b_dec).sub_(goal)
        grad = error * unit
        touched = self.backend.Ragged(high.rows, high.latents, high.values, rows, d_sae)
        f_grad = touched.value_grads(grad, dec)
        pre_grad, ones = f_grad[fires], z.new_ones(rows, 1)
        grads = {
            "enc": active.latent_sums(pre_grad, z),
            "dec": active.latent_sums(on.values, grad),
            "b_enc": active.latent_sums(pre_grad, ones).flatten(),
            "b_dec": grad.sum(0),
        }
        self.add_skip(grads, grad, z)
        return _Sums(
            grads,
            error.square().sum(),
            through_f=touched.latent_sums(f_grad * near, ones).flatten(),
            near=high.latents[near].bincount(minlength=d_sae),
            fires=on.latents.bincount(minlength=d_sae),
        )

    def settle(self, outcome: Outcome, moment: Moment) -> None:
        """Thresholds at or above zero, one step of the two controllers."""
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
            self.arch, p["enc"], p["dec"], p["b_enc"], p["b_dec"],
            threshold=p["threshold"], skip=p.get("skip"),
        )  # fmt: skip
