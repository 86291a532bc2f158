"""A figure of a dictionary: the mean over the latents that were drawn and could be scored.

The interval is over latents, drawn again with replacement, since they are a sample of all those
that fire; text is not drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sae_cli.studies import resample
from sae_cli.studies.bench import Figure

METHOD = {**resample.METHOD, "unit": "latent"}


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
    low, high = resample.ends(resample.draws(len(there)) @ there / len(there), len(there))
    return Figure(
        metric, float(there.mean()), None, low, high, control=control, n=len(there), seed=seed
    )
