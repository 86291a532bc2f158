"""JumpReLU with a tanh penalty: a smooth price for being on, whatever the activation.

Anthropic, "Dictionary Learning Optimization Techniques" (Circuits Updates, January 2025), with
E|x|^2 = d_in, pi = W_enc x + b_enc and n_i = |dec_i|:

    f = pi * H(pi - theta)
    L = |x_hat - x|^2 + lambda(t) * sum_i tanh(c f_i n_i) + mu * sum_i relu(theta_i - pi_i) n_i

lambda rises linearly over all of training; the last term, with a tiny mu, brings silent latents
back. The straight-through estimator has a wide window eps and reaches the pre-activations too:

    d f / d theta = -(theta / eps) K((pi - theta) / eps)
    d f / d pi    = H(pi - theta) + (theta / eps) K((pi - theta) / eps),   K(u) = [|u| < 1/2]

The decoder is free, uniform in +-1/sqrt(d_in) at the start, enc = (d_in / d_sae) dec, and b_enc
such that each latent fires on 10,000 / d_sae of the first batch (here: at most half of it). Unlike
the source, thresholds are trained directly and not as logarithms: a logarithm's steps shrink with
the threshold. The loss is divided by d_in (see `relu_l1`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_cli.sae.form import Form, Moment, Outcome, Scaled, batch_variance
from sae_cli.spec.train import JumpReluTanhTrain

FIRST_L0 = 10_000
"""Latents that are on per token at the start, if the width has twice as many."""
DEFAULT_SHARE = 1 / 400
"""Left out of the spec, lambda is this times d_in, the variance of a token: a latent must explain
a quarter percent of it. At d_in = 4096 it is 10, as in the source; on the embedded model (64, width
512) it is 0.16 and ends at an L0 of 6.5."""


class JumpReLUTanh(Form):
    """JumpReLU in training with Anthropic's loss: free decoder."""

    arch = "jumprelu"

    def __init__(
        self, spec: JumpReluTanhTrain, d_in: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        assert spec.width is not None
        self.spec = spec
        self.price = spec.tanh if spec.tanh is not None else d_in * DEFAULT_SHARE
        uniform = torch.rand(spec.width, d_in, generator=generator, dtype=torch.float32)
        dec = uniform.mul_(2.0).sub_(1.0).div_(math.sqrt(d_in)).to(device)
        self.params = {
            "enc": dec * (d_in / spec.width),
            "dec": dec,
            "b_enc": torch.zeros(spec.width, device=device),
            "b_dec": torch.zeros(d_in, device=device),
            "threshold": torch.full((spec.width,), spec.threshold_init, device=device),
        }

    def begin(self, z: Tensor) -> None:
        """Choose b_enc so that each latent fires equally often on the first batch."""
        p, rows = self.params, z.shape[0]
        share = min(0.5, FIRST_L0 / p["enc"].shape[0])
        rank = max(1, round(share * rows))
        cut = (z @ p["enc"].T).topk(rank, dim=0).values[-1]
        p["b_enc"].copy_(p["threshold"] - cut)

    def gradients(self, z: Tensor, moment: Moment, dead: Tensor | None) -> Outcome:
        """See `Form.gradients`. Silent latents are always pulled, dead or not."""
        enc, dec, b_enc, b_dec = (self.params[n] for n in ("enc", "dec", "b_enc", "b_dec"))
        theta, scale, width = self.params["threshold"], self.spec.tanh_scale, self.spec.bandwidth
        weight = 1.0 / max(1, z.numel())
        price = self.price * moment.ramp(self.spec.tanh_warmup)
        pull = self.spec.pre_act * weight
        pre = torch.addmm(b_enc, z, enc.T)
        on = pre > theta
        f = pre * on
        error = torch.addmm(b_dec, f, dec) - z
        norms = torch.linalg.vector_norm(dec, dim=1)
        bent = torch.tanh(f * (norms * scale))
        flat = 1.0 - bent.square()
        grad = error * (2.0 * weight)
        f_grad = torch.addcmul(grad @ dec.T, flat, norms, value=price * weight * scale)
        jump = (f_grad * ((pre - theta).abs() < width / 2)) * (theta / width)
        below = theta - pre
        silent = below > 0
        pre_grad = (f_grad * on).add_(jump).sub_(silent * (norms * pull))
        norm_grad = (f * flat).sum(0) * (price * weight * scale) + (below * silent).sum(0) * pull
        rows = dec / norms.clamp_min(torch.finfo(norms.dtype).tiny)[:, None]
        grads = {
            "enc": pre_grad.T @ z,
            "dec": torch.addmm(rows * norm_grad[:, None], f.T, grad),
            "b_enc": pre_grad.sum(0),
            "b_dec": grad.sum(0),
            "threshold": silent.sum(0) * (norms * pull) - jump.sum(0),
        }
        squared = error.square().sum()
        loss = (squared + price * bent.sum()) * weight + (below * silent * norms).sum() * pull
        fires = on.sum(0)
        return Outcome(
            grads, loss, squared, batch_variance(z),
            l0=fires.sum() / max(1, z.shape[0]), fired=fires > 0,
            extra={"coefficient": squared.new_tensor(price), "threshold": theta.mean()},
        )  # fmt: skip

    def settle(self, outcome: Outcome, moment: Moment) -> None:
        """Thresholds at or above zero."""
        self.params["threshold"].clamp_min_(0.0)

    def scaled(self) -> Scaled:
        p = self.params
        return Scaled(
            self.arch, p["enc"], p["dec"], p["b_enc"], p["b_dec"], threshold=p["threshold"]
        )
