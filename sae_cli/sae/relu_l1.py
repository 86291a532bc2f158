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
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_cli.sae.activity import SPARSE_BELOW, Entries, dense_parts, entries_above
from sae_cli.sae.form import Form, Moment, Outcome, Scaled, batch_variance, unit_rows
from sae_cli.sae.product import linear
from sae_cli.spec.train import ReluL1Train

INITIAL_NORM = 0.1
"""Norm of a decoder row at the start, as in the source."""
DEFAULT_L1 = 0.125
"""Left out of the spec, lambda is this times sqrt(d_in). An activation of size a is shrunk by
lambda / 2, and with |x| = sqrt(d_in) activations grow with sqrt(d_in), so lambda must too. At
d_in = 1600 it is the source's 5; on the embedded model (64) it is 1 and gives an L0 of about 10."""


@dataclass
class _Sums:
    """Sums over a batch."""

    grads: dict[str, Tensor]
    """Of the loss, but for the penalty's part in the decoder's."""
    squared_error: Tensor
    mass: Tensor
    """[d_sae]: of f"""
    fires: Tensor
    """[d_sae]: of [f > 0]"""

    @classmethod
    def zeros(cls, params: dict[str, Tensor]) -> _Sums:
        mass = torch.zeros_like(params["b_enc"])
        grads = {name: torch.zeros_like(param) for name, param in params.items()}
        return cls(grads, mass.new_zeros(()), mass, torch.zeros_like(mass, dtype=torch.int64))


class ReluL1(Form):
    """ReLU-L1 in training: free decoder, enc = dec at the start."""

    arch = "relu_l1"

    def __init__(
        self, spec: ReluL1Train, d_in: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        assert spec.width is not None
        self.l1 = spec.l1 if spec.l1 is not None else math.sqrt(d_in) * DEFAULT_L1
        self.warmup, self.sparse_below = spec.l1_warmup, SPARSE_BELOW
        dec = unit_rows(spec.width, d_in, generator, device).mul_(INITIAL_NORM)
        self.params = {
            "enc": dec.clone(),
            "dec": dec,
            "b_enc": torch.zeros(spec.width, device=device),
            "b_dec": torch.zeros(d_in, device=device),
        }

    def gradients(self, z: Tensor, moment: Moment, dead: Tensor | None) -> Outcome:
        """See `Form.gradients`. Dead latents get no help: the source found none needed."""
        mesh, rows = self.mesh, max(1, z.shape[0] * self.mesh.data)
        dec, weight = self.params["dec"], 1.0 / (rows * z.shape[1])
        l1 = self.l1 * moment.ramp(self.warmup)
        norms = torch.linalg.vector_norm(dec, dim=1)
        price = norms * (l1 * weight)
        entries = mesh.all_or_none(
            entries_above(
                z, self.params["enc"], self.params["b_enc"], z.new_zeros(()), self.sparse_below
            )
        )
        sums = self._dense(z, price) if entries is None else self._sparse(z, price, entries)
        pull = l1 * weight * sums.mass / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        sums.grads["dec"].addcmul_(dec, pull[:, None])
        squared = mesh.sum_data(sums.squared_error)
        penalty = mesh.sum_all((sums.mass * norms).sum())
        return Outcome(
            sums.grads, (squared + l1 * penalty) * weight, squared, batch_variance(z, mesh),
            l0=mesh.sum_all(sums.fires.sum()) / rows, fired=sums.fires > 0,
            extra={
                "coefficient": squared.new_tensor(l1),
                "l1": penalty / rows,
                "sparse": squared.new_tensor(float(entries is not None)),
            },
        )  # fmt: skip

    def _dense(self, z: Tensor, price: Tensor) -> _Sums:
        p, weight = self.params, 2.0 / max(1, z.numel() * self.mesh.data)
        b_dec = self.mesh.once(p["b_dec"])
        sums = _Sums.zeros(p)
        by_input = p["dec"].T.contiguous()
        for rows in dense_parts(z):
            f = linear(rows, p["enc"], p["b_enc"]).relu_()
            error = self.mesh.sum_latent(linear(f, by_input, b_dec)).sub_(rows)
            sums.squared_error += error.square().sum()
            grad, on = error.mul_(weight), f > 0
            sums.grads["dec"].addmm_(f.T, grad)
            sums.grads["b_dec"] += grad.sum(0)
            sums.mass += f.sum(0)
            sums.fires += on.sum(0)
            pre_grad = linear(grad, p["dec"], price).mul_(on)
            sums.grads["enc"].addmm_(pre_grad.T, rows)
            sums.grads["b_enc"] += pre_grad.sum(0)
        return sums

    def _sparse(self, z: Tensor, price: Tensor, on: Entries) -> _Sums:
        dec, b_dec = self.params["dec"], self.params["b_dec"]
        active = self.backend.Ragged(on.rows, on.latents, on.values, z.shape[0], dec.shape[0])
        error = self.mesh.sum_latent(active.decode(dec)).add_(b_dec).sub_(z)
        grad = error * (2.0 / max(1, z.numel() * self.mesh.data))
        value_grads = active.value_grads(grad, dec) + price[on.latents]
        ones = z.new_ones(z.shape[0], 1)
        grads = {
            "enc": active.latent_sums(value_grads, z),
            "dec": active.latent_sums(on.values, grad),
            "b_enc": active.latent_sums(value_grads, ones).flatten(),
            "b_dec": grad.sum(0),
        }
        mass = active.latent_sums(on.values, ones).flatten()
        fires = on.latents.bincount(minlength=dec.shape[0])
        return _Sums(grads, error.square().sum(), mass, fires)

    def scaled(self) -> Scaled:
        p = self.params
        return Scaled(self.arch, p["enc"], p["dec"], p["b_enc"], p["b_dec"])
