"""What the trainer asks of an architecture.

A form is an SAE in training: its weights in scaled units, the gradient of its loss, and what must
hold after a step. It knows neither the optimizer nor the data order. Gradients are written out by
hand, so that nothing dense is kept that is not needed; tests hold each of them against float64
autograd.

Scaled units: a batch is z = (x - mean) * scale with E|z|^2 = d_in (see `fold.scaling`). The encoder
is stored latent by latent, `enc [d_sae, d_in]`, because gradients through few latents are rows.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sae_cli.sae.backend import TORCH, Backend
from sae_cli.sae.base import Arch
from sae_cli.sae.mesh import SINGLE, Mesh
from sae_cli.sae.unit import remove_radial, renormalise

__all__ = [
    "Form",
    "Moment",
    "Outcome",
    "Scaled",
    "batch_variance",
    "remove_radial",
    "renormalise",
    "unit_rows",
]


@dataclass(frozen=True)
class Moment:
    """Where in training a batch stands. `step` counts from 0."""

    step: int
    total: int
    broken: Tensor | None = None
    """0-d, on the device: 1 if this step or one before met numbers that are not finite, else 0.
    None where a step that meets them is never ended."""

    def ramp(self, share: float) -> float:
        """Linear rise from 0 over the first `share` of the steps, then 1."""
        steps = share * self.total
        return 1.0 if steps < 1 else min(1.0, self.step / steps)


@dataclass(frozen=True)
class Outcome:
    """One batch: the gradients, and 0-d tensors on the device that say how it went."""

    grads: dict[str, Tensor]
    loss: Tensor
    squared_error: Tensor
    """Sum over batch and dimensions of (x_hat - z)^2."""
    variance: Tensor
    """Sum over batch and dimensions of (z - batch mean)^2."""
    l0: Tensor
    """Mean number of active latents per token."""
    fired: Tensor
    """bool [d_sae]: fired on some token of the batch."""
    extra: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Scaled:
    """The weights of the function that was trained, in scaled units, for `fold.fold`."""

    arch: Arch
    enc: Tensor
    """[d_sae, d_in]"""
    dec: Tensor
    """[d_sae, d_in]"""
    b_enc: Tensor
    b_dec: Tensor
    threshold: Tensor | None = None
    k: int | None = None
    skip: Tensor | None = None
    """[d_out, d_in], of a transcoder; `dec` and `b_dec` have its d_out then."""


class Form(abc.ABC):
    """An SAE in training. Subclasses fill `params` (trained) and `buffers` (carried along)."""

    arch: ClassVar[Arch]
    lr_scales: ClassVar[dict[str, float]] = {}
    """Learning rate of a parameter as a multiple of the common one, where it is not 1."""
    unit: ClassVar[tuple[str, ...]] = ()
    """Parameters with rows of unit norm, which the optimizer's step restores. `gradients` gives
    theirs without what points along the rows."""
    calibrates: ClassVar[bool] = False
    """Whether `calibrate` needs rows that training never sees."""

    def __init__(self) -> None:
        self.params: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.mesh = SINGLE
        self.backend: Backend = TORCH
        """What makes selections and products over active latents; set before the first batch."""

    def spread(self, mesh: Mesh, device: torch.device) -> None:
        """Called at once where several processes train: keep, on `device`, this one's latents.

        From then on `gradients` gets this process's rows, and gives gradients of them alone, which
        the trainer adds up over the batch; the numbers of an outcome, but for `fired`, are those of
        the whole batch and all latents."""
        self.mesh = mesh
        for tensors in (self.params, self.buffers):
            for name, tensor in tensors.items():
                tensors[name] = mesh.own(name, tensor).clone().to(device)

    def begin(self, z: Tensor) -> None:
        """Called once, before the first step, with the whole first batch `z [B, d_in]`."""
        return

    @abc.abstractmethod
    def gradients(self, z: Tensor, moment: Moment, dead: Tensor | None) -> Outcome:
        """The loss of a scaled batch `z [B, d_in]` and its gradients; changes no parameter.

        `dead [n]` (int64) are the latents that count as dead, or None when there are none.
        """

    def settle(self, outcome: Outcome, moment: Moment) -> None:
        """Called after the optimizer's step, to restore what must hold of the weights.

        Where `moment.broken`, matrices must stay as they are; the caller puts back the rest.
        """
        return

    def averaged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """An average of the weights of several steps, as the finished SAE has it. Changes nothing
        of `weights`."""
        return weights

    def calibrate(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Called once, after the last step, with scaled rows `[B, d_in]` that training never saw.

        Each call of `batches` starts over, for as many passes as are needed. What is found goes
        into `buffers`, and `scaled()` includes it from then on.
        """
        return

    @abc.abstractmethod
    def scaled(self) -> Scaled:
        """The function as it stands."""


def batch_variance(z: Tensor, mesh: Mesh = SINGLE) -> Tensor:
    """Sum over the whole batch and dimensions of (z - batch mean)^2, a 0-d tensor, from this
    process's part `z [B / data, d_in]` of it."""
    if mesh.data == 1:
        return (z - z.mean(0)).square().sum()
    mean = mesh.sum_data(z.sum(0)) / (z.shape[0] * mesh.data)
    return mesh.sum_data((z - mean).square().sum())


def unit_rows(d_sae: int, d_in: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Random directions `[d_sae, d_in]` of unit norm, the same on every device."""
    rows = torch.randn(d_sae, d_in, generator=generator, dtype=torch.float32)
    return renormalise(rows).to(device)
