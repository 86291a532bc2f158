"""Rows of the results: shares and means over prompts, with intervals that draw prompts again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sae_cli.studies import resample
from sae_cli.studies.bench import Figure
from sae_cli.studies.steer.harm import Harm

Floats = NDArray[np.float64]
KEPT, SUPPRESS = "kept", "suppress"
"""The slice of whatever makes a model refuse less begins with the second."""


def mean(
    metric: str, values: Floats, *, slice: str = KEPT, control: str | None = None,
    seed: int | None = None,
) -> Figure:  # fmt: skip
    """The mean of one value a prompt, float64 [prompts]."""
    n = len(values)
    low, high = resample.ends(resample.draws(n) @ values / n, n)
    return Figure(metric, float(values.mean()), None, low, high, n, slice, control, n, seed)


def fall(metric: str, before: Floats, after: Floats, *, slice: str = KEPT,
         control: str | None = None, seed: int | None = None) -> Figure:  # fmt: skip
    """By how much the mean falls, of the same prompts."""
    return mean(metric, before - after, slice=slice, control=control, seed=seed)


def per_token(metric: str, sums: Floats, of: Harm, *, slice: str = KEPT,
              control: str | None = None, seed: int | None = None) -> Figure:  # fmt: skip
    """A mean over predictions, whose interval draws documents again."""
    units, total = len(of.n), float(of.n.sum())
    often = resample.draws(units)
    low, high = resample.ends((often @ sums) / (often @ of.n), units)
    value = float(sums.sum()) / total
    return Figure(metric, value, None, low, high, units, slice, control, int(total), seed)


def p_value(own: float, others: Sequence[float]) -> float:
    """(1 + those of `others` that reach `own`) / (1 + all of them): the chance that one of them,
    drawn with the features, does as well (Phipson and Smyth 2010)."""
    return (1 + sum(each >= own for each in others)) / (1 + len(others))


def null(metric: str, reason: str, *, slice: str = KEPT, control: str | None = None) -> Figure:
    """A figure that can't be had."""
    return Figure(metric, None, reason, slice=slice, control=control)
