"""Selections over latents that lie in several processes: the same latents as in one.

A row's k largest: every shard names its own k largest as keys (value, then latent, lowest first),
the k-th largest key of all is the cut, and each shard keeps what is at or above it. Keys differ, so
exactly k are kept and ties go where they go in a single process. A batch's largest: the exact cut
comes from histograms that are added up (`nth_largest`), and tied entries go by row, then latent.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sae_cli.sae.batch_cut import Kept, above, first_guess
from sae_cli.sae.mesh import Mesh
from sae_cli.sae.nth_largest import nth_largest
from sae_cli.sae.selection import keys_of


def keep_largest(values: Tensor, latents: Tensor, k: int, width: int, mesh: Mesh) -> Tensor:
    """`values [B, n]` with zeros where they are not among the k largest of their row over all
    shards of latents. `latents [B, n]` (int64) number them within this shard of `width`; n is at
    most k and may differ from shard to shard."""
    if mesh.latent == 1:
        return values
    keys = keys_of(values, latents + mesh.first(width))
    padded = functional.pad(keys, (0, k - keys.shape[1]), value=-1)
    cut = mesh.gather_latent(padded).topk(k, dim=1).values[:, -1:]
    return values.where(keys >= cut, 0.0)


def batch_top_k_of_all(
    z: Tensor, enc: Tensor, b_enc: Tensor, count: int, guess: float, mesh: Mesh
) -> Kept:
    """This process's part of `batch_cut.batch_top_k` over the whole batch and all latents.

    `z [B / data, d_in]` and `enc [d_sae / latent, d_in]` are this process's, `count` is that of the
    whole batch; rows and latents that are kept are counted from this process's first.
    """
    width, places_of_all = enc.shape[0], z.shape[0] * enc.shape[0] * mesh.processes
    if places_of_all <= count:
        guess = 0.0
    elif guess <= 0.0:
        guess = mesh.least(first_guess(z, enc, b_enc, count / places_of_all))
    places, values = above(z, enc, b_enc, guess)
    while _total(values.numel(), mesh) < count and guess > 0.0:
        guess = guess / 2 if guess > 1e-3 else 0.0
        places, values = above(z, enc, b_enc, guess)
    cut = values.new_tensor(nth_largest(lambda: [values], [count], mesh.sum_all)[0])
    keep = values > cut
    row, latent = places // width, places % width
    if float(cut) > 0.0:
        left = count - _total(int(keep.sum()), mesh)
        number = (row + mesh.data_rank * z.shape[0]) * (width * mesh.latent)
        number += latent + mesh.first(width)
        tied = values == cut
        last = mesh.gather_all(number[tied]).sort().values[left - 1]
        keep |= tied & (number <= last)
    return Kept(row[keep], latent[keep], values[keep], cut)


def _total(count: int, mesh: Mesh) -> int:
    return int(mesh.sum_all(torch.tensor(count)))
