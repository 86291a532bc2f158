"""A figure of a dictionary: the mean over the latents that were drawn and could be scored.

The interval is over latents, drawn again with replacement, since they are a sample of all those
that fire; text is not drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sae_cli.studies.bench import Figure

RESAMPLES, SEED, LEVEL = 1000, 0, 0.95
FEWEST = 8
"""Latents, below which there is no interval."""
METHOD = {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL, "unit": "latent"}


def mean_figure(
    metric: str,
    values: Sequence[float | None],
    reason: str,
    *,
    control: str | None = None,
    seed: int | None = None,
) -> Figure:
    """The mean of those of `values` that are there; null for `reason` where none is."""
    there = np.array([each for each in values if each is not None], dtype=np.float64)
    if not len(there):
        return Figure(metric, None, reason, control=control, n=0, seed=seed)
    low, high = interval(there) if len(there) >= FEWEST else (None, None)
    return Figure(
        metric, float(there.mean()), None, low, high, control=control, n=len(there), seed=seed
    )


def interval(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    """The central LEVEL of the mean over resamples (Efron and Tibshirani 1993, section 13.3)."""
    dice = np.random.default_rng(SEED)
    means = values[dice.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
