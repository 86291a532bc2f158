"""Gated SAE: a gate says whether a latent is on, a magnitude says how much.

Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders" (arXiv
2404.16014), section 3, with the encoder's weights tied by a scale exp(r) for each latent:

    pi = W_enc x + b_gate                 f = [pi > 0] * relu(exp(r) * W_enc x + b_mag)
    L  = |x_hat(f) - x|^2 + lambda(t) * |relu(pi)|_1 + |sg(W_dec) relu(pi) + sg(b_dec) - x|^2

with unit decoder rows and sg the stopped gradient. The step [pi > 0] passes none, so the gate
learns from the last two terms, and the penalty shrinks the gate alone, never a magnitude. Inputs
are centred instead of b_dec being subtracted, and the loss is divided by d_in (see `relu_l1`).

With tied weights this is a JumpReLU, and is stored as one: pi > 0 where exp(r) W_enc x + b_mag is
above b_mag - exp(r) b_gate.
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
from sae_cli.spec.train import GatedTrain

TIMES = 2.0
"""Left out of the spec, lambda is this many times relu_l1's: two reconstructions weigh against it.
On the embedded model both then end at an L0 near 13."""


class Gated(Form):
    """Gated in training: unit decoder rows, enc = dec at the start."""

    arch = "jumprelu"
    unit = ("dec",)

    def __init__(
        self, spec: GatedTrain, d_in: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        assert spec.width is not None
        self.l1 = spec.l1 if spec.l1 is not None else math.sqrt(d_in) * DEFAULT_L1 * TIMES
        self.warmup = spec.l1_warmup
        dec = unit_rows(spec.width, d_in, generator, device)
        self.params = {
            "enc": dec.clone(),
            "dec": dec,
            "b_gate": torch.zeros(spec.width, device=device),
            "b_mag": torch.zeros(spec.width, device=device),
            "r_mag": torch.zeros(spec.width, device=device),
            "b_dec": torch.zeros(d_in, device=device),
        }

    def gradients(self, z: Tensor, moment: Moment, dead: Tensor | None) -> Outcome:
        """See `Form.gradients`. Dead latents get no help: their gates still learn."""
        p, weight = self.params, 1.0 / max(1, z.numel())
        l1 = self.l1 * moment.ramp(self.warmup)
        grown = p["r_mag"].exp()
        shared = z @ p["enc"].T
        gate = (shared + p["b_gate"]).relu_()
        opens = gate > 0
        f = torch.addcmul(p["b_mag"], shared, grown).relu_().mul_(opens)
        error = torch.addmm(p["b_dec"], f, p["dec"]) - z
        grad = error * (2.0 * weight)
        on = f > 0
        mag_grad = (grad @ p["dec"].T).mul_(on)
        gate_error = torch.addmm(p["b_dec"], gate, p["dec"]) - z
        gate_grad = (gate_error @ p["dec"].T).mul_(2.0 * weight).add_(l1 * weight).mul_(opens)
        r_grad = (mag_grad * shared).sum(0) * grown
        grads = {
            "enc": torch.addcmul(gate_grad, mag_grad, grown).T @ z,
            "dec": remove_radial(f.T @ grad, p["dec"]),
            "b_gate": gate_grad.sum(0),
            "b_mag": mag_grad.sum(0),
            "r_mag": r_grad,
            "b_dec": grad.sum(0),
        }
        squared, mass = error.square().sum(), gate.sum()
        through_gate = gate_error.square().sum()
        fires = on.sum(0)
        return Outcome(
            grads, (squared + l1 * mass + through_gate) * weight, squared, batch_variance(z),
            l0=fires.sum() / max(1, z.shape[0]), fired=fires > 0,
            extra={
                "coefficient": squared.new_tensor(l1),
                "gate_fvu": through_gate / batch_variance(z),
            },
        )  # fmt: skip

    def scaled(self) -> Scaled:
        p = self.params
        grown = p["r_mag"].exp()
        return Scaled(
            self.arch, p["enc"] * grown[:, None], p["dec"], p["b_mag"], p["b_dec"],
            threshold=(p["b_mag"] - grown * p["b_gate"]).clamp_min(0.0),
        )  # fmt: skip
