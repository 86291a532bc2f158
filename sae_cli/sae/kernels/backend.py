"""A training step on the kernels: what `sae.backend` makes in plain torch. Imports Triton.

Where the number of entries is not known they are padded, so that a step of one process doesn't wait
for the device (but for a batch too large for the kernel, which is cut in plain torch).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_cli.sae import backend, optimizer, ragged, selection, sparse
from sae_cli.sae.kernels import fused
from sae_cli.sae.kernels.batch_top_k import MOST
from sae_cli.sae.kernels.lists import in_parts
from sae_cli.sae.product import linear


class _Products(sparse.Products):
    _bags, _dots = staticmethod(fused.bags), staticmethod(fused.dots)

    def gradients(self, grad: Tensor, z: Tensor, W_dec: Tensor) -> dict[str, Tensor]:
        """All in one walk through a latent's tokens, if `grad` and `z` are equally wide."""
        if grad.shape != z.shape:
            return super().gradients(grad, z, W_dec)
        lists = in_parts(self._order, self._sources, self._latent_ends)
        made = fused.backward(self.values, lists, grad, z, W_dec)
        return {"enc": made.enc, "dec": made.dec, "b_enc": made.b_enc}


class Active(_Products, sparse.Active):
    """Active latents, k a row."""


class Ragged(_Products, ragged.Ragged):
    """Active latents, their number differing from row to row."""

    def within(self, low: int, high: int) -> Ragged:
        """As `ragged.Ragged.within`, but the other entries stay, with value 0 and in no sum."""
        here = (self.latents >= low) & (self.latents < high)
        latents = (self.latents - low).where(here, high - low)
        return Ragged(self.rows, latents, self.values.where(here, 0.0), self.n_rows, high - low)


class Adam(optimizer.Adam):
    """One pass over a parameter, its gradient and its moments; unit rows stay so in the same pass.

    Moments in bfloat16 are rounded by noise that is a function of the step, the parameter and the
    place in this process's part of it. Those in int8 are moved as in plain torch.
    """

    def _move(
        self,
        name: str,
        grad: Tensor,
        rate: float,
        number: int,
        shrink: Tensor | None,
        skip: Tensor | None,
    ) -> None:
        first, second, step = (self.state[f"{name}.{kind}"] for kind in (*optimizer.CODES, "step"))
        if first.dtype == torch.int8:
            super()._move(name, grad, rate, number, shrink, skip)
            return
        fused.adam(
            self._params[name], grad.contiguous(), first, second, step,
            lr=rate, beta1=self._betas[0], beta2=self._betas[1], eps=optimizer.EPS,
            shrink=shrink, skip=skip, unit=name in self._unit,
            seed=number * len(self._params) + list(self._params).index(name),
        )  # fmt: skip


class Triton(backend.Backend):
    """The kernels: on a GPU, or in Triton's interpreter."""

    name = "triton"
    Active = Active
    Ragged = Ragged
    Adam = Adam

    def top_k(self, pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return fused.top_k(pre, k)

    def encode_top_k(
        self, z: Tensor, enc: Tensor, b_enc: Tensor, k: int, *, bfloat16: bool, margin: int
    ) -> selection.Chosen:
        return selection.encode_top_k(
            z, enc, b_enc, k, bfloat16=bfloat16, margin=margin,
            select=fused.top_k, nominate=_nominate, pairs=fused.dots,
        )  # fmt: skip

    def batch_top_k(
        self, z: Tensor, enc: Tensor, b_enc: Tensor, k: int, last: Tensor
    ) -> tuple[ragged.Ragged, Tensor]:
        """Holds all pre-activations of the batch, unless they are too many for the kernel."""
        if z.shape[0] * enc.shape[0] > MOST:
            return super().batch_top_k(z, enc, b_enc, k, last)
        values, latents, rows, _ = fused.batch_top_k(linear(z, enc, b_enc), k)
        cut = values.min() if values.numel() else values.new_zeros(())  # padding is 0
        return Ragged(rows, latents, values, z.shape[0], enc.shape[0]), cut


TRITON = Triton()


def _nominate(pre: Tensor, count: int) -> Tensor:
    """Latents `[B, count]` of the largest entries of `pre [B, d_sae]`, best first."""
    values, latents = fused.top_k(pre, count)
    return latents.gather(1, values.argsort(dim=1, descending=True, stable=True))
