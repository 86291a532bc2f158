"""What is measured of an SAE: one name, one formula, one version each.

Meters are fed batch by batch and sum in float64, so how tokens are cut into batches does not
matter. A figure that can't be computed is null and says why; it is never -1 or 0. A change to a
formula is a new version in its name. Which tokens count is decided by the caller's mask. Here is
what is measured of activations; `losses` has what is measured of the model behind them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_cli.stages.bootstrap import Interval, Segments, UnitSums, interval

METRICS, DENSITY = "metrics.json", "density.safetensors"
"""The files of an evaluation: metrics by name, and how often each latent fires."""
NO_TOKENS = "no token was kept"
NO_SUM = "a share of latents, not a sum over documents"
HISTOGRAM_DECADES, BINS_PER_DECADE = 8, 4
SUMS = (
    "error", "around", "per_token", "cosine", "l1", "yy", "xy", "norm_ratio", "norm_x", "norm_y",
)  # fmt: skip
BY_UNIT = (*SUMS, "fires", "n", "n_spread", "n_nonzero")
"""What is summed by document: the same, and how many tokens and active latents there are."""
Figures = dict[str, tuple[Any, Any]]
"""Numerators and denominators by name, of floats, or of a figure's resamples."""


@dataclass(frozen=True)
class Metric:
    """A number, or null and the reason why there is none."""

    value: float | None
    reason: str | None = None


def ratio(numerator: float, denominator: float, zero: str) -> Metric:
    """numerator / denominator; `zero` says what a denominator of zero means."""
    if denominator == 0:
        return Metric(None, zero)
    return number(numerator / denominator)


def number(value: float) -> Metric:
    """A figure, or null where it is not finite."""
    return Metric(value) if math.isfinite(value) else Metric(None, f"the sum is {value}")


class CentredSums:
    """Sums of x - m by document, which need x alone: one for all SAEs of the same tokens."""

    def __init__(self, mean: Tensor, documents: int) -> None:
        """`mean [d_in]` is the site's stored training mean m."""
        self.mean, self.units = mean.double(), UnitSums(documents, len(mean))
        self._squares: Tensor | None = None

    def add(self, x: Tensor, segments: Segments) -> None:
        """Count tokens `x [n, d_in]`, in the order of those of `segments`."""
        self.units.add(x.double() - self.mean, segments)
        self._squares = None

    def plus(self, other: CentredSums) -> CentredSums:
        """Both together."""
        out = CentredSums(self.mean, 0)
        out.units = self.units.plus(other.units)
        return out

    def squares(self) -> Tensor | None:
        """|sum (x - m)|^2 of each resample, float64 [resamples]; None: too few documents."""
        if self._squares is None:
            sums = self.units.resampled()
            self._squares = None if sums is None else sums.square().sum(1)
        return self._squares


class ReconstructionMeter:
    """How well, and how sparsely, an SAE rebuilds activations.

    x are kept activations, y their reconstructions, f the latents, N the number of tokens, sums
    run over tokens. `mean [d_in]` is the site's stored training mean m. Results:

    - `fvu.pooled_v1`      sum |x - y|^2 / sum |x - x_bar|^2, x_bar the mean of the kept tokens
    - `ev.pooled_v1`       1 - fvu.pooled_v1
    - `ev.per_token_v1`    mean of 1 - |x - y|^2 / |x - m|^2, without tokens where x = m
    - `mse_v1`             mean of |x - y|^2 (summed over dimensions)
    - `cosine_v1`          mean of x.y / (|x| |y|), 0 where either is zero
    - `l0_v1`              mean number of latents that are not zero
    - `l1_v1`              mean of sum |f| (decoder rows have unit norm)
    - `shrinkage_v1`       sum |y|^2 / sum x.y; below 1, reconstructions are too small
    - `norm_ratio_v1`      mean of |y| / |x|, without tokens where x = 0
    - `norm_in_v1`         mean of |x|
    - `norm_out_v1`        mean of |y|
    - `dead_fraction_v1`   share of latents that fire on no kept token
    - `dense_fraction_v1`  share of latents that fire on more than `dense_threshold` of them

    The first two and shrinkage are ratios of sums (a few large tokens can dominate them), the
    per-token ones are means of ratios.
    """

    def __init__(self, d_in: int, d_sae: int, mean: Tensor, documents: int = 0) -> None:
        """`documents` is how many the text has, for intervals."""
        assert mean.shape == (d_in,)
        self.d_in, self.d_sae, self.mean = d_in, d_sae, mean.double()
        self.n, self.n_spread, self.n_nonzero = 0, 0, 0
        self.fires = torch.zeros(d_sae, dtype=torch.int64, device=mean.device)
        self.units = UnitSums(documents, len(BY_UNIT))
        self._sum = torch.zeros(d_in, dtype=torch.float64, device=mean.device)
        self._totals = torch.zeros(len(SUMS), dtype=torch.float64, device=mean.device)

    def update(self, x: Tensor, x_hat: Tensor, f: Tensor, segments: Segments | None = None) -> None:
        """Count tokens: `x`, `x_hat [n, d_in]` raw activations, `f [n, d_sae]`, and the documents
        that they are of; n may be 0."""
        assert x.shape == x_hat.shape == (f.shape[0], self.d_in) and f.shape[1] == self.d_sae
        x, y = x.double(), x_hat.double()
        centred = x - self.mean
        error, around = (x - y).square().sum(1), centred.square().sum(1)
        xx, yy, xy = x.square().sum(1), y.square().sum(1), (x * y).sum(1)
        l1, active = f.abs().sum(1, dtype=torch.float64), f != 0
        per_token, cosine = _over(error, around), _over(xy, (xx * yy).sqrt())
        sizes = xx.sqrt(), yy.sqrt()
        each = (error, around, per_token, cosine, l1, yy, xy, _over(*reversed(sizes)), *sizes)
        self._totals += torch.stack(each).sum(1)
        self._sum += centred.sum(0)
        self.n += x.shape[0]
        self.n_spread += int((around > 0).sum())
        self.n_nonzero += int((xx > 0).sum())
        self.fires += active.sum(0)
        if segments is not None:
            counts = (active.sum(1), torch.ones_like(xx), around > 0, xx > 0)
            self.units.add(torch.stack([*each, *(c.double() for c in counts)], 1), segments)

    def plus(self, other: ReconstructionMeter) -> ReconstructionMeter:
        """What one meter would show that had seen the tokens of both."""
        out = ReconstructionMeter(self.d_in, self.d_sae, self.mean)
        for name in ("n", "n_spread", "n_nonzero", "fires", "_sum", "_totals"):
            setattr(out, name, getattr(self, name) + getattr(other, name))
        out.units = self.units.plus(other.units)
        return out

    def result(self, dense_threshold: float = 0.1) -> dict[str, Metric]:
        """The metrics by name; see the class for their formulas."""
        t, n = dict(zip(SUMS, self._totals.tolist(), strict=True)), self.n
        spread = t["around"] - float(self._sum.square().sum()) / n if n else 0.0
        # Differences below rounding mean that the tokens do not vary at all.
        spread = spread if spread > 1e-12 * t["around"] else 0.0
        t |= {"fires": float(self.fires.sum()), "n": n}
        t |= {"n_spread": self.n_spread, "n_nonzero": self.n_nonzero}
        still = "the kept tokens do not vary" if n else NO_TOKENS
        zero = {
            "fvu.pooled_v1": still,
            "ev.per_token_v1": still,
            "shrinkage_v1": "sum x.y is zero" if n else NO_TOKENS,
            "norm_ratio_v1": "every kept token is zero" if n else NO_TOKENS,
        }
        figures = _figures(t, spread)
        found = {name: ratio(*parts, zero.get(name, NO_TOKENS)) for name, parts in figures.items()}
        fvu, density = found["fvu.pooled_v1"], self.density()
        dead, dense = int((self.fires == 0).sum()), int((density > dense_threshold).sum())
        return {
            "fvu.pooled_v1": fvu,
            "ev.pooled_v1": fvu if fvu.value is None else number(1.0 - fvu.value),
            **found,
            "dead_fraction_v1": Metric(dead / self.d_sae) if n else Metric(None, NO_TOKENS),
            "dense_fraction_v1": Metric(dense / self.d_sae) if n else Metric(None, NO_TOKENS),
        }

    def intervals(self, centred: CentredSums) -> dict[str, Interval]:
        """How sure each metric is, by name, with the `centred` sums of the same tokens.

        A resample's figure is the metric's formula on the resample's tokens, x_bar included.
        """
        sums, squares, docs = self.units.resampled(), centred.squares(), self.units.n_docs
        values: dict[str, Tensor] = {}
        if sums is not None and squares is not None:
            t = dict(zip(BY_UNIT, sums.unbind(1), strict=True))
            spread = t["around"] - squares / t["n"]
            spread = torch.where(spread > 1e-12 * t["around"], spread, 0.0)
            values = {name: a / b for name, (a, b) in _figures(t, spread).items()}
            values["ev.pooled_v1"] = 1.0 - values["fvu.pooled_v1"]
        why = {n: m.reason for n, m in self.result().items()}
        why |= {n: why[n] or NO_SUM for n in ("dead_fraction_v1", "dense_fraction_v1")}
        return {name: interval(values.get(name), docs, why[name]) for name in why}

    def density(self) -> Tensor:
        """Share of kept tokens on which each latent fires: float64 `[d_sae]`; zeros before any."""
        return self.fires.double() / max(self.n, 1)

    def histogram(self) -> dict[str, list[float] | list[int] | int]:
        """Latents by log10 of their density, `density_histogram_v1`.

        `counts[i]` latents lie in edges[i] < log10(density) <= edges[i + 1]; the first bin takes
        what lies below it too; `zero` counts those that never fired; `tokens` is N, so that
        1/N, the smallest density that can be seen, is known.
        """
        steps = HISTOGRAM_DECADES * BINS_PER_DECADE
        density = self.density()
        logs = density[density > 0].log10().cpu()
        # Rounded before the ceiling, so that a density of exactly 10^-1 falls on its edge.
        place = (logs * BINS_PER_DECADE).mul(1e9).round().div(1e9).ceil().long() + steps - 1
        counts = torch.bincount(place.clamp(0, steps - 1), minlength=steps)
        return {
            "edges": [i / BINS_PER_DECADE - HISTOGRAM_DECADES for i in range(steps + 1)],
            "counts": counts.tolist(),
            "zero": int((self.fires == 0).sum()),
            "tokens": self.n,
        }


def _figures(t: Mapping[str, Any], spread: Any) -> Figures:
    """The metrics that are a ratio of sums, of one set of sums or of each resample's."""
    return {
        "fvu.pooled_v1": (t["error"], spread),
        "ev.per_token_v1": (t["n_spread"] - t["per_token"], t["n_spread"]),
        "mse_v1": (t["error"], t["n"]),
        "cosine_v1": (t["cosine"], t["n"]),
        "l0_v1": (t["fires"], t["n"]),
        "l1_v1": (t["l1"], t["n"]),
        "shrinkage_v1": (t["yy"], t["xy"]),
        "norm_ratio_v1": (t["norm_ratio"], t["n_nonzero"]),
        "norm_in_v1": (t["norm_x"], t["n"]),
        "norm_out_v1": (t["norm_y"], t["n"]),
    }


def _over(a: Tensor, b: Tensor) -> Tensor:
    """a / b per token, 0 where b is zero."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0.0)
