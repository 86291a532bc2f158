"""Matryoshka BatchTopK: the first latents reconstruct alone, more latents add detail.

Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse Autoencoders" (arXiv
2503.17547), section 3, on BatchTopK's activations: with groups of latents that end at
m_1 < ... < m_G = d_sae, and x_hat_m the reconstruction by the first m latents and b_dec,

    L = 1/G * sum_g |x_hat_{m_g} - x|^2 / Var(x)  +  alpha * |e_hat - e|^2 / Var(e)

where e is the residual of all latents. (The paper adds the G terms up; their mean makes alpha and
a gradient clip mean what they do elsewhere. Its code also counts a term of b_dec alone.)

What group j decodes enters every x_hat_{m_g} with g >= j, so the gradient that reaches its latents
is the sum of those errors: G decodings of a group each cost one of all latents.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from sae_cli.sae.batchtopk import BatchTopK
from sae_cli.sae.mesh import Mesh
from sae_cli.sae.ragged import Ragged
from sae_cli.spec.train import MatryoshkaTrain


class Matryoshka(BatchTopK):
    """Matryoshka BatchTopK in training; only the main loss differs from BatchTopK's."""

    def __init__(
        self, spec: MatryoshkaTrain, d_in: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__(spec, d_in, generator, device)
        self.groups = tuple(itertools.pairwise((0, *spec.group_ends())))

    def spread(self, mesh: Mesh, device: torch.device) -> None:
        """A shard has its part of each group, perhaps none."""
        super().spread(mesh, device)
        width = self.params["enc"].shape[0]
        first = mesh.first(width)
        ends = [min(max(end - first, 0), width) for _, end in self.groups]
        self.groups = tuple(itertools.pairwise((0, *ends)))

    def _reconstruct(
        self, z: Tensor, goal: Tensor, active: Ragged, variance: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        dec = self.params["dec"]
        parts = [active.within(low, high) for low, high in self.groups]
        errors, error = [], self.params["b_dec"] - goal
        for part, (low, high) in zip(parts, self.groups, strict=True):
            error = error + self.mesh.sum_latent(part.decode(dec[low:high]))
            errors.append(error)
        weight = 1.0 / (len(parts) * variance)
        grads = {name: torch.empty_like(self.params[name]) for name in ("enc", "dec", "b_enc")}
        grad = torch.zeros_like(goal)
        for part, (low, high), missed in zip(
            reversed(parts), reversed(self.groups), reversed(errors), strict=True
        ):
            grad = grad + missed * (2.0 * weight)
            for name, own in part.gradients(grad, z, dec[low:high]).items():
                grads[name][low:high] = own
        loss = self.mesh.sum_data(torch.stack([e.square().sum() for e in errors]).sum()) * weight
        return loss, error, {"dec": grads["dec"], "b_dec": grad.sum(0), **grads}
