"""The auxiliary loss that revives dead latents (Gao et al. 2024, appendix A.2).

    alpha * |e_hat - e|^2 / Var(e),   e_hat = f_aux W_dec,   f_aux = TopK_aux(relu(W_enc z + b_enc))

over the dead latents alone, where e = z - z_hat is the main residual, taken as a constant, and
b_dec has no part. Dense products over the compacted rows of dead latents, some tokens at a time:
a gather of k_aux = d / 2 rows a token would cost more than the rest of the step. With nothing dead
nothing is computed. Gradients reach decoder, encoder and encoder bias of dead latents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_cli.sae.form import batch_variance
from sae_cli.sae.mesh import SINGLE, Mesh
from sae_cli.sae.product import chunk_rows, linear
from sae_cli.sae.selection import Select, top_k
from sae_cli.sae.shard_cut import keep_largest


def default_k_aux(d_in: int) -> int:
    """The power of two at or below d_in / 2, at least 1."""
    return 1 << max(0, (d_in // 2).bit_length() - 1)


def revive(
    z: Tensor,
    error: Tensor,
    dead: Tensor,
    params: dict[str, Tensor],
    grads: dict[str, Tensor],
    *,
    k_aux: int,
    alpha: float,
    mesh: Mesh = SINGLE,
    select: Select = top_k,
) -> Tensor:
    """Add the gradients of alpha * aux to `grads`; returns aux, a 0-d tensor.

    `z [B, d_in]`; `error [B, d_in]` is z_hat - z; `dead [n]` (int64), n at least 1 in all shards
    of latents together. `params` and `grads` hold `enc`, `dec [d_sae, d_in]` and `b_enc [d_sae]`.
    `select` takes the place of `selection.top_k`.
    """
    count = int(mesh.sum_latent(torch.tensor(dead.numel())))
    enc, dec, b_enc = (params[name].index_select(0, dead) for name in ("enc", "dec", "b_enc"))
    by_input = dec.T.contiguous()
    variance = batch_variance(error, mesh).clamp_min(torch.finfo(error.dtype).tiny)
    enc_grad, dec_grad, b_enc_grad = (torch.zeros_like(part) for part in (enc, dec, b_enc))
    missed = error.new_zeros(())
    size = chunk_rows(count, z.element_size(), z.device)
    for rows, left in zip(torch.split(z, size), torch.split(error, size), strict=True):
        f = linear(rows, enc, b_enc).relu_()
        if count > k_aux:
            n = min(k_aux, dead.numel())
            values, indices = select(f, n) if n else (f, f.long())
            if mesh.latent > 1:
                values = keep_largest(values, dead[indices], k_aux, params["enc"].shape[0], mesh)
            f = torch.zeros_like(f).scatter_(1, indices, values)
        grad = mesh.sum_latent(linear(f, by_input)).add_(left)
        missed += grad.square().sum()
        grad *= 2.0 * alpha / variance
        pre_grad = linear(grad, dec).mul_(f > 0)
        dec_grad.addmm_(f.T, grad)
        enc_grad.addmm_(pre_grad.T, rows)
        b_enc_grad += pre_grad.sum(0)
    for name, part in (("enc", enc_grad), ("dec", dec_grad), ("b_enc", b_enc_grad)):
        grads[name].index_add_(0, dead, part)
    return mesh.sum_data(missed) / variance
