"""Rows of unit norm: how a gradient is kept tangent to the sphere, and how the norm is restored."""

from __future__ import annotations

import torch
from torch import Tensor

RADIAL_ROWS = 256
"""Rows at a time of the projection on a CPU: they stay in its cache between the two passes."""


def renormalise(dec: Tensor, skip: Tensor | None = None) -> Tensor:
    """Scale the rows of `dec [d_sae, d_in]` to unit norm, in place. Zero rows stay zero, and where
    `skip` (0-d) is 1 all rows stay as they are, to the bit."""
    norms = torch.linalg.vector_norm(dec, dim=1, keepdim=True)
    if skip is not None:
        norms = torch.where(skip > 0, 1.0, norms)
    return dec.div_(norms.clamp_min(torch.finfo(dec.dtype).tiny))


def remove_radial(grad: Tensor, dec: Tensor) -> Tensor:
    """Remove from each row of `grad` its component along the unit row of `dec`, in place.

    What is left is tangent to the sphere, so a step spends nothing on the norm that the
    renormalisation would undo (Bricken et al. 2023, appendix on optimisation).
    """
    rows = RADIAL_ROWS if grad.device.type == "cpu" else max(1, grad.shape[0])
    for part, directions in zip(torch.split(grad, rows), torch.split(dec, rows), strict=True):
        part.addcmul_((part * directions).sum(1, keepdim=True), directions, value=-1.0)
    return grad
