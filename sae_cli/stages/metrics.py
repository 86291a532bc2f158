"""What is measured of an SAE: one name, one formula, one version each.

Meters are fed batch by batch and sum in float64, so how tokens are cut into batches does not
matter. A figure that can't be computed is null and says why; it is never -1 or 0. A change to a
formula is a new version in its name. Which tokens count is decided by the caller's mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

METRICS, DENSITY = "metrics.json", "density.safetensors"
"""The files of an evaluation: metrics by name, and how often each latent fires."""
NO_TOKENS = "no token was kept"
HISTOGRAM_DECADES, BINS_PER_DECADE = 8, 4
POSITIONS_AT_ONCE = 512
SUMS = ("error", "around", "per_token", "cosine", "l1", "yy", "xy", "norm_ratio")


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
    - `dead_fraction_v1`   share of latents that fire on no kept token
    - `dense_fraction_v1`  share of latents that fire on more than `dense_threshold` of them

    The first two and shrinkage are ratios of sums (a few large tokens can dominate them), the
    per-token ones are means of ratios.
    """

    def __init__(self, d_in: int, d_sae: int, mean: Tensor) -> None:
        assert mean.shape == (d_in,)
        self.d_in, self.d_sae, self.mean = d_in, d_sae, mean.double()
        self.n, self.n_spread, self.n_nonzero = 0, 0, 0
        self.fires = torch.zeros(d_sae, dtype=torch.int64, device=mean.device)
        self._sum = torch.zeros(d_in, dtype=torch.float64, device=mean.device)
        self._totals = torch.zeros(len(SUMS), dtype=torch.float64, device=mean.device)

    def update(self, x: Tensor, x_hat: Tensor, f: Tensor) -> None:
        """Count tokens: `x`, `x_hat [n, d_in]` raw activations, `f [n, d_sae]`; n may be 0."""
        assert x.shape == x_hat.shape == (f.shape[0], self.d_in) and f.shape[1] == self.d_sae
        x, y = x.double(), x_hat.double()
        centred = x - self.mean
        error, around = (x - y).square().sum(1), centred.square().sum(1)
        xx, yy, xy = x.square().sum(1), y.square().sum(1), (x * y).sum(1)
        l1 = f.abs().sum(1, dtype=torch.float64)
        per_token, cosine = _over(error, around), _over(xy, (xx * yy).sqrt())
        each = (error, around, per_token, cosine, l1, yy, xy, _over(yy.sqrt(), xx.sqrt()))
        self._totals += torch.stack(each).sum(1)
        self._sum += centred.sum(0)
        self.n += x.shape[0]
        self.n_spread += int((around > 0).sum())
        self.n_nonzero += int((xx > 0).sum())
        self.fires += (f != 0).sum(0)

    def result(self, dense_threshold: float = 0.1) -> dict[str, Metric]:
        """The metrics by name; see the class for their formulas."""
        t, n = dict(zip(SUMS, self._totals.tolist(), strict=True)), self.n
        spread = t["around"] - float(self._sum.square().sum()) / n if n else 0.0
        # Differences below rounding mean that the tokens do not vary at all.
        spread = spread if spread > 1e-12 * t["around"] else 0.0
        still = "the kept tokens do not vary" if n else NO_TOKENS
        fvu = ratio(t["error"], spread, still)
        unequal = self.n_spread
        density = self.density()
        dead, dense = int((self.fires == 0).sum()), int((density > dense_threshold).sum())
        return {
            "fvu.pooled_v1": fvu,
            "ev.pooled_v1": fvu if fvu.value is None else number(1.0 - fvu.value),
            "ev.per_token_v1": ratio(unequal - t["per_token"], unequal, still),
            "mse_v1": ratio(t["error"], n, NO_TOKENS),
            "cosine_v1": ratio(t["cosine"], n, NO_TOKENS),
            "l0_v1": ratio(float(self.fires.sum()), n, NO_TOKENS),
            "l1_v1": ratio(t["l1"], n, NO_TOKENS),
            "shrinkage_v1": ratio(t["yy"], t["xy"], "sum x.y is zero" if n else NO_TOKENS),
            "norm_ratio_v1": ratio(
                t["norm_ratio"], self.n_nonzero, "every kept token is zero" if n else NO_TOKENS
            ),
            "dead_fraction_v1": Metric(dead / self.d_sae) if n else Metric(None, NO_TOKENS),
            "dense_fraction_v1": Metric(dense / self.d_sae) if n else Metric(None, NO_TOKENS),
        }

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


class LossMeter:
    """Next-token predictions of a changed forward pass against those of the clean one.

    A prediction is counted where its source position t is kept and t + 1 lies in the same block.
    Logits are taken in float32, sums over predictions in float64. In nats:

    - ce        mean of -log p(token[t + 1] | ..t), of either pass
    - kl        mean of sum_v p_clean(v) (log p_clean(v) - log p_changed(v))
    - agreement share of predictions whose most likely token is the same
    """

    def __init__(self) -> None:
        self.n, self.agree = 0, 0
        self.ce_clean, self.ce_changed, self.kl = 0.0, 0.0, 0.0

    def update(self, clean: Tensor, changed: Tensor, tokens: Tensor, keep: Tensor) -> None:
        """Count a batch: logits `[b, t, v]` of both passes, `tokens [b, t]`, bool `keep [b, t]`."""
        assert clean.shape == changed.shape and clean.shape[:2] == tokens.shape == keep.shape
        block, position = keep[:, :-1].nonzero(as_tuple=True)
        for at in range(0, block.numel(), POSITIONS_AT_ONCE):
            b, t = block[at : at + POSITIONS_AT_ONCE], position[at : at + POSITIONS_AT_ONCE]
            target = tokens[b, t + 1].long()[:, None]
            old, new = clean[b, t].float(), changed[b, t].float()
            self.agree += int((old.argmax(1) == new.argmax(1)).sum())
            old, new = old.log_softmax(1), new.log_softmax(1)
            p = old.exp()
            self.kl += float(torch.where(p > 0, p * (old - new), 0.0).sum(dtype=torch.float64))
            self.ce_clean -= float(old.gather(1, target).sum(dtype=torch.float64))
            self.ce_changed -= float(new.gather(1, target).sum(dtype=torch.float64))
        self.n += block.numel()


def splice_metrics(spliced: LossMeter, zero: LossMeter, mean: LossMeter) -> dict[str, Metric]:
    """What the model loses with the reconstruction in place of the activations.

    The three meters have seen the same predictions: with the SAE spliced in, with the kept
    activations set to zero, and with them set to the stored mean. In nats:

    - `ce.clean_v1`, `ce.spliced_v1`, `ce.zero_v1`, `ce.mean_v1`, `kl.spliced_v1`,
      `top1.agreement_v1`                see `LossMeter`
    - `ce.delta_v1`                      ce.spliced - ce.clean
    - `ce_recovered.zero_v1`, `.mean_v1` (ce.ablated - ce.spliced) / (ce.ablated - ce.clean), a
                                         ratio of pooled means; null where ablation does no harm
    """
    assert spliced.n == zero.n == mean.n
    n, clean = spliced.n, spliced.ce_clean

    def recovered(ablated: LossMeter) -> Metric:
        harm = ablated.ce_changed - clean
        if n == 0:
            return Metric(None, NO_TOKENS)
        if not harm > 0:
            return Metric(
                None,
                f"ablation does no harm: CE {ablated.ce_changed / n:.4f} ablated, "
                f"{clean / n:.4f} clean",
            )
        return number((ablated.ce_changed - spliced.ce_changed) / harm)

    return {
        "ce.clean_v1": ratio(clean, n, NO_TOKENS),
        "ce.spliced_v1": ratio(spliced.ce_changed, n, NO_TOKENS),
        "ce.zero_v1": ratio(zero.ce_changed, n, NO_TOKENS),
        "ce.mean_v1": ratio(mean.ce_changed, n, NO_TOKENS),
        "ce.delta_v1": ratio(spliced.ce_changed - clean, n, NO_TOKENS),
        "kl.spliced_v1": ratio(spliced.kl, n, NO_TOKENS),
        "top1.agreement_v1": ratio(spliced.agree, n, NO_TOKENS),
        "ce_recovered.zero_v1": recovered(zero),
        "ce_recovered.mean_v1": recovered(mean),
    }


def _over(a: Tensor, b: Tensor) -> Tensor:
    """a / b per token, 0 where b is zero."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0.0)
