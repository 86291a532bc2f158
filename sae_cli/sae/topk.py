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
from sae_cli.sae.auxk import default_k_aux, revive
from sae_cli.sae.form import (
    Moment,
    Outcome,
    Scaled,
    batch_variance,
    remove_radial,
    renormalise,
    unit_rows,
)
from sae_cli.sae.shard_cut import keep_largest
from sae_cli.sae.transcoder import Transcoding
from sae_cli.spec.train import TopKTrain


class TopK(Transcoding):
    """TopK in training: unit decoder rows, enc = dec at the start."""

    arch = "topk"
    unit = ("dec",)

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
        self.k, self.margin, self.bfloat16 = spec.k, spec.candidates, spec.precision == "bfloat16"
        self.alpha, self.k_aux = spec.auxk_alpha, spec.auxk or default_k_aux(d_in)
        dec = unit_rows(spec.width, d_in, generator, device)
        self.params = {
            "enc": dec.clone(),
            "dec": dec,
            "b_enc": torch.zeros(spec.width, device=device),
            "b_dec": torch.zeros(d_in, device=device),
        }

    def gradients(
        self, z: Tensor, moment: Moment, dead: Tensor | None, target: Tensor | None = None
    ) -> Outcome:
        """See `Transcoding.gradients`. Only the encoder's product touches all latents."""
        enc, dec, b_enc, b_dec = (self.params[n] for n in ("enc", "dec", "b_enc", "b_dec"))
        mesh, width = self.mesh, enc.shape[0]
        k = min(self.k, width)
        chosen = self.backend.encode_top_k(
            z, enc, b_enc, k, bfloat16=self.bfloat16, margin=self.margin
        )
        values = keep_largest(chosen.values, chosen.indices, self.k, width, mesh)
        ragged = self.backend.Ragged.of  # most of a shard's are not kept
        active = (self.backend.Active if mesh.latent == 1 else ragged)(
            values, chosen.indices, width
        )
        goal = self.goal(z, target)
        error = mesh.sum_latent(active.decode(dec)).add_(b_dec).sub_(goal)
        variance = batch_variance(z if target is None else target, mesh)
        squared = mesh.sum_data(error.square().sum())
        unit = variance.clamp_min(torch.finfo(z.dtype).tiny)  # no rows, no variance
        grad = error * (2.0 / unit)
        grads = {**active.gradients(grad, z, dec), "b_dec": grad.sum(0)}
        self.add_skip(grads, grad, z)
        loss, extra = squared / unit, {}
        if chosen.at_edge is not None:
            extra["at_edge"] = mesh.sum_all(chosen.at_edge) / mesh.data
        if dead is not None and self.alpha > 0:
            extra["aux_loss"] = revive(
                z, error, dead, self.params, grads,
                k_aux=self.k_aux, alpha=self.alpha, mesh=mesh, select=self.backend.top_k,
            )  # fmt: skip
            loss = loss + self.alpha * extra["aux_loss"]
        remove_radial(grads["dec"], dec)
        fires = mesh.sum_all((active.values > 0).sum())
        return Outcome(
            grads, loss, squared, variance,
            l0=fires / max(1, z.shape[0] * mesh.data), fired=active.fired(), extra=extra,
        )  # fmt: skip

    def averaged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """With unit decoder rows, as in training: which k are largest hangs on them."""
        return {**weights, "dec": renormalise(weights["dec"].clone())}

    def scaled(self) -> Scaled:
        p = self.params
        return Scaled(
            self.arch, p["enc"], p["dec"], p["b_enc"], p["b_dec"], k=self.k, skip=p.get("skip")
        )
