"""BatchTopK: the B * k largest activations of a batch, a threshold for single tokens afterwards.

Bussmann et al. 2024, "BatchTopK Sparse Autoencoders" (arXiv 2412.06410), section 3:

    Z = BatchTopK(relu(X W_enc + b_enc))      (the B * k largest entries of the batch)
    L = |X_hat - X|^2 / Var(X)  +  alpha * |E_hat - E|^2 / Var(E)
    afterwards:  f = pre * [pre > theta]

with TopK's auxiliary loss on the detached residual E. A token takes as many latents as it needs,
so k is a mean. The paper's theta is the mean of the batches' smallest kept value; here it is found
once, after training, on rows that training never saw: midway between the last pre-activation that
k a token of them keep and the first that they drop, so that no other way of rounding moves their
number. What is stored is a JumpReLU with this one threshold. Variances are those of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sae_cli.errors import TrainingError
from sae_cli.sae.auxk import default_k_aux, revive
from sae_cli.sae.backend import GUESS
from sae_cli.sae.batch_cut import products
from sae_cli.sae.form import (
    Moment,
    Outcome,
    Scaled,
    batch_variance,
    remove_radial,
    unit_rows,
)
from sae_cli.sae.nth_largest import nth_largest
from sae_cli.sae.ragged import Ragged
from sae_cli.sae.shard_cut import batch_top_k_of_all
from sae_cli.sae.transcoder import Transcoding
from sae_cli.spec.train import BatchTopKTrain, MatryoshkaTrain


class BatchTopK(Transcoding):
    """BatchTopK in training: unit decoder rows, enc = c dec at the start."""

    arch = "jumprelu"
    unit = ("dec",)
    calibrates = True

    def __init__(
        self,
        spec: BatchTopKTrain | MatryoshkaTrain,
        d_in: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        assert spec.width is not None
        if spec.k > spec.width:
            raise TrainingError(
                f"k = {spec.k} latents can't be active where there are {spec.width}",
                hint="lower train.k or raise train.width",
            )
        self.k = spec.k
        self.alpha, self.k_aux = spec.auxk_alpha, spec.auxk or default_k_aux(d_in)
        dec = unit_rows(spec.width, d_in, generator, device)
        self.params = {
            "enc": dec.clone(),
            "dec": dec,
            "b_enc": torch.zeros(spec.width, device=device),
            "b_dec": torch.zeros(d_in, device=device),
        }
        self.buffers = {"threshold": torch.zeros((), device=device)}

    def begin(self, z: Tensor, target: Tensor | None = None) -> None:
        """Scale the encoder so that the first batch is reconstructed as well as one factor can.

        Gao et al. 2024, appendix A.1, likewise match norms. Without it a large token, which takes
        many latents, overshoots: on the embedded model (width 512, k 8, 488 steps) the first loss
        is 3.1 and the last FVU 0.042; with it 0.6 and 0.039.
        """
        super().begin(z, target)
        p, mesh = self.params, self.mesh
        z, wanted = mesh.rows(z), mesh.rows(z if target is None else target)
        x_hat = mesh.sum_latent(self._keep(z)[0].decode(p["dec"]))
        best = mesh.sum_data((x_hat * wanted).sum()) / mesh.sum_data(x_hat.square().sum())
        p["enc"].mul_(torch.where(best > 0, best, 1.0))

    def gradients(
        self, z: Tensor, moment: Moment, dead: Tensor | None, target: Tensor | None = None
    ) -> Outcome:
        """See `Transcoding.gradients`. Only the encoder's product touches all latents."""
        p, mesh, rows = self.params, self.mesh, max(1, z.shape[0] * self.mesh.data)
        active, cut = self._keep(z)
        variance = batch_variance(z if target is None else target, mesh)
        unit = variance.clamp_min(torch.finfo(z.dtype).tiny)  # an empty batch has no variance
        goal = self.goal(z, target)
        loss, error, grads = self._reconstruct(z, goal, active, unit)
        if "skip" in p:
            self.add_skip(grads, error * (2.0 / unit), z)
        extra = {"threshold": cut}
        if dead is not None and self.alpha > 0:
            extra["aux_loss"] = revive(
                z, error, dead, p, grads,
                k_aux=self.k_aux, alpha=self.alpha, mesh=mesh, select=self.backend.top_k,
            )  # fmt: skip
            loss = loss + self.alpha * extra["aux_loss"]
        remove_radial(grads["dec"], p["dec"])
        return Outcome(
            grads, loss, mesh.sum_data(error.square().sum()), variance,
            l0=mesh.sum_all(active.number().to(z.dtype)) / rows,
            fired=active.fired(), extra=extra,
        )  # fmt: skip

    def _keep(self, z: Tensor) -> tuple[Ragged, Tensor]:
        """The batch's B * k largest activations, and the smallest of them."""
        enc, b_enc, mesh = self.params["enc"], self.params["b_enc"], self.mesh
        last = self.buffers["threshold"]
        if mesh.processes == 1:
            return self.backend.batch_top_k(z, enc, b_enc, self.k, last)
        count, guess = self.k * z.shape[0] * mesh.data, GUESS * float(last)
        kept = batch_top_k_of_all(z, enc, b_enc, count, guess, mesh)
        entries = (kept.rows, kept.latents, kept.values)
        return self.backend.Ragged(*entries, z.shape[0], enc.shape[0]), kept.cut

    def _reconstruct(
        self, z: Tensor, goal: Tensor, active: Ragged, variance: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss, error `[B, d_out]`, and the gradients."""
        dec = self.params["dec"]
        error = self.mesh.sum_latent(active.decode(dec)) + self.params["b_dec"] - goal
        grad = error * (2.0 / variance)
        made = active.gradients(grad, z, dec)
        grads = {"dec": made["dec"], "b_dec": grad.sum(0), **made}  # the norm is added up so
        loss = self.mesh.sum_data(error.square().sum()) / variance
        return loss, error, grads

    def settle(self, outcome: Outcome, moment: Moment) -> None:
        """The cut stands in for the threshold until the end."""
        self.buffers["threshold"].copy_(outcome.extra["threshold"])

    def calibrate(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """The threshold that keeps exactly k a row of all that `batches` yields, and what ties with
        the last of them. What is not positive counts as zero."""
        enc, b_enc = self.params["enc"], self.params["b_enc"]
        rows = sum(z.shape[0] for z in batches())

        def pre_activations() -> Iterator[Tensor]:
            for z in batches():
                yield from products(z, enc, b_enc)

        count = rows * self.k
        found = nth_largest(pre_activations, (count, count + 1), self.mesh.sum_latent)
        kept, dropped = torch.tensor(found)
        below = torch.nextafter(kept, torch.zeros(()))  # a latent fires above its threshold
        self.buffers["threshold"].copy_(torch.minimum((kept + dropped) / 2, below))

    def scaled(self) -> Scaled:
        p = self.params
        threshold = self.buffers["threshold"].expand(p["b_enc"].shape).clone()
        return Scaled(
            self.arch, p["enc"], p["dec"], p["b_enc"], p["b_dec"],
            threshold=threshold, skip=p.get("skip"),
        )  # fmt: skip
