"""How large a step is: the learning rate as a pure function of the spec and the step."""

from __future__ import annotations

import math

from sae_cli.spec.train_base import TrainBase


def peak_rate(spec: TrainBase, d_in: int, total: int) -> float:
    """The learning rate between warm-up and decay.

    Left out of the spec it is the larger of two:

    - 2e-4 / sqrt(width / 16384), for long runs (Gao et al. 2024 scale it by 1 / sqrt(width);
      the constant is that of the code of their followers);
    - min(0.1, 64 / total) / sqrt(d_in), for short ones. Adam moves a row of d_in weights by at
      most lr * sqrt(d_in) a step, and a row of unit norm must be able to turn around some tens of
      times before the run ends. Measured, TopK: 488 steps on the embedded model (d_in 64, width
      512, k 4) end at FVU 0.114 with the first rule's rate and 0.066 with 0.016; 400 steps on a
      synthetic mixture (d_in 256, width 2048, k 16) at 0.51 with the first and 0.08 with this.

    At width 16384 and d_in 2048 the first takes over at 7,000 steps.
    """
    assert spec.width is not None
    if spec.lr is not None:
        return spec.lr
    return max(2e-4 / math.sqrt(spec.width / 16384), min(0.1, 64 / total) / math.sqrt(d_in))


def learning_rate(spec: TrainBase, d_in: int, step: int, total: int) -> float:
    """The learning rate of a step, counted from 0, out of `total`.

    Linear warm-up to `peak_rate` over the first `lr_warmup` of the steps; then, by `lr_schedule`,

    - constant: the peak, and a line to zero over the last `lr_decay` of the steps;
    - linear, cosine: a line, or half a cosine, from the peak to zero over all that are left.
    """
    warm = spec.lr_warmup * total
    rise = min(1.0, (step + 1) / warm) if warm >= 1 else 1.0
    cool = spec.lr_decay * total if spec.lr_schedule == "constant" else total - warm
    fall = min(1.0, (total - step) / cool) if cool >= 1 else 1.0
    if spec.lr_schedule == "cosine":
        fall = 0.5 * (1.0 - math.cos(math.pi * fall))
    return peak_rate(spec, d_in, total) * min(rise, fall)
