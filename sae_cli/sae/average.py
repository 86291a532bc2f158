"""An exponential moving average of the weights, which the finished SAE may take in their place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Average:
    """average <- d average + (1 - d) weights after each step, with d = `decay`.

    While step / (9 + step) is below `decay`, d is that, so that the weights before the first step
    have no part and a short run's average is not made of its beginning.
    """

    def __init__(self, params: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: param.clone() for name, param in params.items()}

    def update(self, params: Mapping[str, Tensor], step: int, skip: Tensor | None = None) -> None:
        """Take in the weights after a step, counted from 0; where `skip` (0-d) is 1, don't."""
        kept = min(self.decay, step / (9 + step))
        if skip is not None:
            share = (1.0 - kept) * (1.0 - skip)
            for name, average in self.weights.items():
                average.lerp_(params[name], share)
            return
        names = list(self.weights)
        torch._foreach_lerp_(
            [self.weights[name] for name in names], [params[name] for name in names], 1.0 - kept
        )
