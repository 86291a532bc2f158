"""The operations in plain torch, under the names and with the results of the kernels.

What the kernels are compared with, in tests and benchmarks; a training without them has its own
(`sae.backend`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_cli.sae import sparse
from sae_cli.sae.form import remove_radial, renormalise
from sae_cli.sae.kernels.lists import Gradients, Kept, Lists
from sae_cli.sae.selection import top_k
from sae_cli.sae.sparse import dots

__all__ = ["adam", "backward", "bags", "batch_top_k", "dots", "top_k"]


def batch_top_k(pre: Tensor, k: int) -> Kept:
    """See `kernels.batch_top_k`. Sorts the batch."""
    rows, width = pre.shape
    room = rows * min(k, width)
    best = pre.flatten().sort(descending=True, stable=True).indices[:room]
    places = best.sort().values
    values = pre.flatten()[places]
    gone = ~((values > 0) | values.isnan())
    order = gone.argsort(stable=True)  # the padding comes last
    values, places, gone = values.masked_fill(gone, 0.0)[order], places[order], gone[order]
    latents, tokens = (places % width).masked_fill(gone, width), places // width
    tokens = tokens.masked_fill(gone, rows)
    return Kept(values, latents, tokens, sparse.ends_of(tokens, rows))


def bags(
    weights: Tensor, members: Tensor, ends: Tensor, table: Tensor, bias: Tensor | None = None
) -> Tensor:
    """See `kernels.bags`."""
    sums = sparse.bags(weights.to(table.dtype), members, ends, table)
    return sums if bias is None else sums + bias


def backward(
    values: Tensor, lists: Lists, grad: Tensor, z: Tensor, W_dec: Tensor, *, tangent: bool = False
) -> Gradients:
    """See `kernels.backward`. Four passes over the entries."""
    count = int(lists.ends[-1])
    order, sources = lists.order[:count], lists.sources[:count]
    latents = torch.arange(W_dec.shape[0], device=order.device).repeat_interleave(lists.ends.diff())
    weights = values.flatten()[order]
    slopes = dots(W_dec, grad, latents, sources, lists.ends) * (weights > 0)
    by_value = torch.zeros_like(values).flatten()
    by_value[order] = slopes
    dec = sparse.bags(weights, sources, lists.ends, grad)
    enc = sparse.bags(slopes, sources, lists.ends, z)
    b_enc = sparse.bags(slopes, sources, lists.ends, z.new_ones(z.shape[0], 1)).flatten()
    if tangent:
        remove_radial(dec, W_dec)
    squares = dec.square().sum(1) + enc.square().sum(1) + b_enc.square()
    return Gradients(by_value.view_as(values), dec, enc, b_enc, squares)


def adam(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float = 1e-8,
    shrink: Tensor | None = None,
    skip: Tensor | None = None,
    unit: bool = False,
    seed: int = 0,
    copy: Tensor | None = None,
) -> None:
    """See `kernels.adam`. Several passes, and moments in float32 only: `seed` changes nothing."""
    assert exp_avg.dtype == torch.float32
    grad = remove_radial(grad.clone(), param) if unit else grad.clone()
    torch._fused_adam_(
        [param], [grad], [exp_avg], [exp_avg_sq], [], [step], lr=lr, beta1=beta1, beta2=beta2,
        weight_decay=0.0, eps=eps, amsgrad=False, maximize=False, grad_scale=shrink, found_inf=skip,
    )  # fmt: skip
    if unit:
        renewed = renormalise(param.clone())
        param.copy_(renewed if skip is None else torch.where(skip == 0, renewed, param))
    if copy is not None:
        copy.copy_(param)
