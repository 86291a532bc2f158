"""The baseline: one matrix encodes and decodes, and an L1 penalty makes it sparse.

Cunningham et al. 2023, "Sparse Autoencoders Find Highly Interpretable Features in Language Models"
(arXiv 2309.08600), section 2, with unit rows M:

    f = relu(M x + b),  x_hat = M^T f,  L = |x_hat - x|^2 + lambda(t) * |f|_1

There is no bias after decoding; inputs are centred here, and the mean becomes one when weights are
folded. The loss is divided by d_in (see `relu_l1`); the warm-up of lambda is ours.
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
from sae_cli.spec.train import TiedTrain


class Tied(Form):
    """Tied weights in training: unit rows, kept so after each step."""

    arch = "relu_l1"
    unit = ("dec",)

    def __init__(
        self, spec: TiedTrain, d_in: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        assert spec.width is not None
        self.l1 = spec.l1 if spec.l1 is not None else math.sqrt(d_in) * DEFAULT_L1
        self.warmup = spec.l1_warmup
        self.params = {
            "dec": unit_rows(spec.width, d_in, generator, device),
            "b_enc": torch.zeros(spec.width, device=device),
        }

    def gradients(self, z: Tensor, moment: Moment, dead: Tensor | None) -> Outcome:
        """See `Form.gradients`. Dead latents get no help, as in the source."""
        dec, b_enc = self.params["dec"], self.params["b_enc"]
        weight = 1.0 / max(1, z.numel())
        l1 = self.l1 * moment.ramp(self.warmup)
        f = torch.addmm(b_enc, z, dec.T).relu_()
        error = f @ dec - z
        grad = error * (2.0 * weight)
        on = f > 0
        pre_grad = (grad @ dec.T).add_(l1 * weight).mul_(on)
        grads = {
            "dec": remove_radial(torch.addmm(f.T @ grad, pre_grad.T, z), dec),
            "b_enc": pre_grad.sum(0),
        }
        squared, mass = error.square().sum(), f.sum()
        fires = on.sum(0)
        return Outcome(
            grads, (squared + l1 * mass) * weight, squared, batch_variance(z),
            l0=fires.sum() / max(1, z.shape[0]), fired=fires > 0,
            extra={"coefficient": squared.new_tensor(l1)},
        )  # fmt: skip

    def scaled(self) -> Scaled:
        dec, b_enc = self.params["dec"], self.params["b_enc"]
        return Scaled(self.arch, dec, dec, b_enc, torch.zeros_like(dec[0]))
