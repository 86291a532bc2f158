"""TopK: exactly k latents per token, and an auxiliary loss that revives dead ones.

Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093):

    z = TopK(relu(W_enc x + b_enc))                                     (section 2.3)
    L = |x_hat - x|^2 / Var(x)  +  alpha * |e_hat - e|^2 / Var(e)       (appendix A.2)

where e = x - x_hat is the main residual, taken as a constant, and e_hat is its reconstruction by
the k_aux largest dead latents, through their own decoder rows and without b_dec. Variances are
those of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_cli.errors import TrainingError
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
from sae_cli.sae.selection import top_k
from sae_cli.sae.sparse import Active
from sae_cli.spec.stages import TopKTrain


class TopK(Form):
    """TopK in training: unit decoder rows, enc = dec at the start."""

    arch = "topk"

    def __init__(
        self, spec: TopKTrain, d_in: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        assert spec.width is not None
        if spec.k > spec.width:
            raise TrainingError(
                f"k = {spec.k} latents can't be active where there are {spec.width}",
                hint="lower train.k or raise train.width",
            )
        self.k = spec.k
        self.alpha = spec.auxk_alpha
        self.k_aux = spec.auxk or 2 ** max(0, (d_in // 2).bit_length() - 1)
        dec = unit_rows(spec.width, d_in, generator, device)
        self.params = {
            "enc": dec.clone(),
            "dec": dec,
            "b_enc": torch.zeros(spec.width, device=device),
            "b_dec": torch.zeros(d_in, device=device),
        }

    def gradients(self, z: Tensor, moment: Moment, dead: Tensor | None) -> Outcome:
        """See `Form.gradients`. Only the encoder's product touches all latents."""
        enc, dec, b_enc, b_dec = (self.params[n] for n in ("enc", "dec", "b_enc", "b_dec"))
        pre = torch.addmm(b_enc, z, enc.T)
        values, indices = top_k(pre, self.k)
        active = Active(values, indices, dec.shape[0])
        error = active.decode(dec) + b_dec - z
        variance, squared = batch_variance(z), error.square().sum()
        grad = error * (2.0 / variance)
        value_grads = active.value_grads(grad, dec)
        ones = grad.new_ones(grad.shape[0], 1)
        grads = {
            "enc": active.latent_sums(value_grads, z),
            "dec": active.latent_sums(values, grad),
            "b_enc": active.latent_sums(value_grads, ones).flatten(),
            "b_dec": grad.sum(0),
        }
        loss, extra = squared / variance, {}
        if dead is not None and self.alpha > 0:
            extra["aux_loss"] = self._revive(z, pre, error, dead, grads)
            loss = loss + self.alpha * extra["aux_loss"]
        remove_radial(grads["dec"], dec)
        return Outcome(
            grads, loss, squared, variance,
            l0=(values > 0).sum() / values.shape[0], fired=active.fired(), extra=extra,
        )  # fmt: skip

    def _revive(
        self, z: Tensor, pre: Tensor, error: Tensor, dead: Tensor, grads: dict[str, Tensor]
    ) -> Tensor:
        """Add the gradients of alpha * aux to `grads`; returns aux. Dense, over dead rows only."""
        rows = self.params["dec"][dead]
        f = pre[:, dead].relu()
        if dead.numel() > self.k_aux:
            values, indices = top_k(f, self.k_aux)
            f = torch.zeros_like(f).scatter_(1, indices, values)
        miss = f @ rows + error
        variance = batch_variance(error)
        grad = miss * (2.0 * self.alpha / variance)
        pre_grad = (grad @ rows.T) * (f > 0)
        grads["dec"].index_add_(0, dead, f.T @ grad)
        grads["enc"].index_add_(0, dead, pre_grad.T @ z)
        grads["b_enc"].index_add_(0, dead, pre_grad.sum(0))
        return miss.square().sum() / variance

    def settle(self, outcome: Outcome, moment: Moment) -> None:
        """Decoder rows back to unit norm."""
        renormalise(self.params["dec"])

    def scaled(self) -> Scaled:
        p = self.params
        return Scaled(self.arch, p["enc"], p["dec"], p["b_enc"], p["b_dec"], k=self.k)
