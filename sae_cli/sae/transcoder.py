"""Transcoders: latents of one site that predict another (Dunefsky et al. 2024, arXiv 2406.11944).

    t_hat = f W_dec + b_dec [+ W_skip z],   f = act(W_enc z + b_enc)
    L = |t_hat - t|^2 / Var(t)  +  what the architecture adds

z is what is read and t what is predicted, each centred and scaled by its own site's statistics.
Everything else is the architecture's: which latents are active, the loss for dead ones (on the
residual of t), controllers. The skip is dense and starts at zero (Paulo et al. 2025, arXiv
2501.18823).

An SAE starts with encoder = decoder, which means nothing here. A latent's decoder row starts in the
direction in which t moves with it on the first batch, the regression of t on enc_i z: the papers
start at random or at zero, and rows of unit norm can't be zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_cli.sae.form import Form, Moment, Outcome, unit_rows


class Transcoding(Form):
    """A form that can be told to predict something else than it reads."""

    def transcode(self, d_out: int, skip: bool, generator: torch.Generator) -> None:
        """Called at once: predict `d_out` numbers; draws decoder rows from `generator`."""
        enc = self.params["enc"]
        self.params["dec"] = unit_rows(enc.shape[0], d_out, generator, enc.device)
        self.params["b_dec"] = enc.new_zeros(d_out)
        if skip:
            self.params["skip"] = enc.new_zeros(d_out, enc.shape[1])

    def begin(self, z: Tensor, target: Tensor | None = None) -> None:
        """See `Form.begin`; `target [B, d_out]` is what the first batch is to give."""
        if target is None:
            return
        enc, dec = self.params["enc"], self.params["dec"]
        moved = enc @ ((z - z.mean(0)).T @ (target - target.mean(0)))
        norms = torch.linalg.vector_norm(moved, dim=1, keepdim=True)
        dec.copy_(torch.where(norms > 0, moved / norms, dec))

    def gradients(
        self, z: Tensor, moment: Moment, dead: Tensor | None, target: Tensor | None = None
    ) -> Outcome:
        """See `Form.gradients`; the error is that of `target [B, d_out]`, if there is one."""
        raise NotImplementedError

    def goal(self, z: Tensor, target: Tensor | None) -> Tensor:
        """What latents and bias are to give for `z`: all of the target, or what a skip leaves."""
        if target is None:
            return z
        skip = self.params.get("skip")
        return target if skip is None else torch.addmm(target, z, skip.T, alpha=-1.0)

    def add_skip(self, grads: dict[str, Tensor], grad: Tensor, z: Tensor) -> None:
        """Put the skip's gradient into `grads`, if there is one; `grad [B, d_out]` is that of the
        prediction."""
        if "skip" in self.params:
            grads["skip"] = grad.T @ z
