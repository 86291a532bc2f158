"""Losses and gradients that are not finite: told at once on a CPU; on a GPU, where a look would
stop the device, noted there until somebody asks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_cli.errors import TrainingError


class Faults:
    """The first step of a training that met such a number, if one did."""

    def __init__(self, device: torch.device, total: int, arch: str) -> None:
        self._total, self._arch = total, arch
        self.deferred = device.type != "cpu"
        """Whether they are looked for when somebody asks, not in a step."""
        self._first = torch.full((3,), -1.0, dtype=torch.float64, device=device)

    @property
    def first(self) -> int | None:
        """That step, if it was noted. Waits for the device."""
        step = int(self._first[0])
        return step if step >= 0 else None

    def verify(self) -> None:
        """Raise TrainingError if one was noted."""
        step, *seen = self._first.tolist()
        if step >= 0:
            raise self.told(int(step), *seen)

    def check(self, step: int, loss: Tensor, norm: Tensor) -> Tensor | None:
        """Raise at once if loss or gradient norm is not finite; `deferred`, note the first step
        where that is so, and return 1 from that step on, 0 before."""
        seen = torch.stack([loss.double(), norm.double()])
        if not self.deferred:
            if not bool(seen.isfinite().all()):
                raise self.told(step, *seen.tolist())
            return None
        here = torch.cat([seen.new_full((1,), step), seen])
        first = (self._first[0] < 0) & ~seen.isfinite().all()
        self._first.copy_(torch.where(first, here, self._first))
        return (self._first[0] >= 0).float()

    def forget(self) -> None:
        """None was met."""
        self._first.fill_(-1.0)

    def told(self, step: int, loss: float = math.nan, norm: float = math.nan) -> TrainingError:
        """What a step with such a loss or gradient norm is answered with."""
        what, value = ("gradient norm", norm) if math.isfinite(loss) else ("loss", loss)
        return TrainingError(
            f"{what} is {value} at step {step} of {self._total} ({self._arch})",
            hint="lower train.lr, or look for broken activations in the cache",
        )
