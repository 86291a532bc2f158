"""ReLU with an L1 penalty that decoder norms weigh.

Anthropic, "Update on how we train SAEs" (Circuits Updates, April 2024):

    f = relu(W_enc x + b_enc)
    L = mean over tokens of  |x_hat - x|^2 + lambda(t) * sum_i f_i |dec_i|

with E|x|^2 = d_in, lambda rising linearly from zero, and a free decoder: weighing by the norm takes
away what a larger row would gain, so nothing needs to be normalised before the final fold. Here
the loss is divided by d_in, which moves no minimum and lets a gradient clip mean the same at any
width of the model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_cli.sae.form import Form, Moment, Outcome, Scaled, batch_variance, unit_rows
from sae_cli.spec.stages import ReluL1Train

INITIAL_NORM = 0.1
"""Norm of a decoder row at the start, as in the source."""
DEFAULT_L1 = 0.125
"""Left out of the spec, lambda is this times sqrt(d_in). An activation of size a is shrunk by
lambda / 2, and with |x| = sqrt(d_in) activations grow with sqrt(d_in), so lambda must too. At
d_in = 1600 it is the source's 5; on the embedded model (64) it is 1 and gives an L0 of about 10."""


class ReluL1(Form):
    """ReLU-L1 in training: free decoder, enc = dec at the start."""

    arch = "relu_l1"

    def __init__(
        self, spec: ReluL1Train, d_in: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        assert spec.width is not None
        self.l1 = spec.l1 if spec.l1 is not None else math.sqrt(d_in) * DEFAULT_L1
        self.warmup = spec.l1_warmup
        dec = unit_rows(spec.width, d_in, generator, device).mul_(INITIAL_NORM)
        self.params = {
            "enc": dec.clone(),
            "dec": dec,
            "b_enc": torch.zeros(spec.width, device=device),
            "b_dec": torch.zeros(d_in, device=device),
        }

    def gradients(self, z: Tensor, moment: Moment, dead: Tensor | None) -> Outcome:
        """See `Form.gradients`. Dead latents get no help: the source found none needed."""
        enc, dec, b_enc, b_dec = (self.params[n] for n in ("enc", "dec", "b_enc", "b_dec"))
        f = torch.addmm(b_enc, z, enc.T).relu_()
        error = torch.addmm(b_dec, f, dec) - z
        weight = 1.0 / z.numel()
        l1 = self.l1 * moment.ramp(self.warmup)
        norms = torch.linalg.vector_norm(dec, dim=1)
        grad = error * (2.0 * weight)
        on = f > 0
        pre_grad = torch.addmm(norms * (l1 * weight), grad, dec.T) * on
        mass = f.sum(0)
        pull = l1 * weight * mass / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        grads = {
            "enc": pre_grad.T @ z,
            "dec": torch.addmm(dec * pull[:, None], f.T, grad),
            "b_enc": pre_grad.sum(0),
            "b_dec": grad.sum(0),
        }
        squared, penalty = error.square().sum(), (mass * norms).sum()
        fires = on.sum(0)
        return Outcome(
            grads, (squared + l1 * penalty) * weight, squared, batch_variance(z),
            l0=fires.sum() / z.shape[0], fired=fires > 0,
            extra={"coefficient": squared.new_tensor(l1), "l1": penalty / z.shape[0]},
        )  # fmt: skip

    def scaled(self) -> Scaled:
        p = self.params
        return Scaled(self.arch, p["enc"], p["dec"], p["b_enc"], p["b_dec"])
