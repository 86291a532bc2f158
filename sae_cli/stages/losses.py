"""What a model loses with something else in place of its activations.

Meters are fed batch by batch, like those of `metrics`, with logits of both passes. Which
predictions count is decided by the caller; `LossSlices` says which ones are looked at apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sae_cli.stages.bootstrap import Interval, Segments, UnitSums, interval
from sae_cli.stages.metrics import NO_TOKENS, Figures, Metric, ratio

POSITIONS_AT_ONCE = 512
RECOVERED = {"ce_recovered.zero_v1": "zero", "ce_recovered.mean_v1": "mean"}
SUMS = ("n", "ce_clean", "ce_changed", "kl", "agree")


class LossMeter:
    """Next-token predictions of a changed forward pass against those of the clean one.

    A prediction is counted where its source position t is kept and t + 1 lies in the same block.
    Logits are taken in float32, sums over predictions in float64. In nats:

    - ce        mean of -log p(token[t + 1] | ..t), of either pass
    - kl        mean of sum_v p_clean(v) (log p_clean(v) - log p_changed(v))
    - agreement share of predictions whose most likely token is the same
    """

    def __init__(self, documents: int = 0) -> None:
        """`documents` is how many the text has, for intervals."""
        self.n, self.agree = 0, 0
        self.ce_clean, self.ce_changed, self.kl = 0.0, 0.0, 0.0
        self.units = UnitSums(documents, len(SUMS))

    def update(
        self,
        clean: Tensor,
        changed: Tensor,
        tokens: Tensor,
        keep: Tensor,
        documents: Tensor | None = None,
    ) -> None:
        """Count a batch: logits `[b, t, v]` of both passes, `tokens [b, t]`, bool `keep [b, t]`,
        and each token's document, int64 `[b, t]`."""
        assert clean.shape == changed.shape and clean.shape[:2] == tokens.shape == keep.shape
        each: list[Tensor] = []
        block, position = keep[:, :-1].nonzero(as_tuple=True)
        for at in range(0, block.numel(), POSITIONS_AT_ONCE):
            b, t = block[at : at + POSITIONS_AT_ONCE], position[at : at + POSITIONS_AT_ONCE]
            target = tokens[b, t + 1].long()[:, None]
            old, new = clean[b, t].float(), changed[b, t].float()
            same = old.argmax(1) == new.argmax(1)
            self.agree += int(same.sum())
            old, new = old.log_softmax(1), new.log_softmax(1)
            p = old.exp()
            kl = torch.where(p > 0, p * (old - new), 0.0)
            was, now = old.gather(1, target), new.gather(1, target)
            self.kl += float(kl.sum(dtype=torch.float64))
            self.ce_clean -= float(was.sum(dtype=torch.float64))
            self.ce_changed -= float(now.sum(dtype=torch.float64))
            if documents is not None:
                kl = kl.sum(1, dtype=torch.float64)
                row = (torch.ones_like(kl), -was[:, 0].double(), -now[:, 0].double(), kl)
                each.append(torch.stack([*row, same.double()], 1))
        self.n += block.numel()
        if documents is not None and each:
            self.units.add(torch.cat(each), Segments(documents[block, position]))


def splice_metrics(
    spliced: LossMeter, zero: LossMeter, mean: LossMeter, none: str = NO_TOKENS
) -> dict[str, Metric]:
    """What the model loses with the reconstruction in place of the activations.

    The three meters have seen the same predictions: with the SAE spliced in, with the kept
    activations set to zero, and with them set to the stored mean; `none` says what it means that
    there are none. In nats:

    - `ce.clean_v1`, `ce.spliced_v1`, `ce.zero_v1`, `ce.mean_v1`, `kl.spliced_v1`, `kl.zero_v1`,
      `top1.agreement_v1`                see `LossMeter`
    - `ce.delta_v1`                      ce.spliced - ce.clean
    - `ce_recovered.zero_v1`, `.mean_v1` (ce.ablated - ce.spliced) / (ce.ablated - ce.clean), a
                                         ratio of pooled means; null where ablation does no harm
    """
    assert spliced.n == zero.n == mean.n
    n, clean = spliced.n, spliced.ce_clean
    sums = {name: getattr(spliced, name) for name in SUMS}
    sums |= {"zero": zero.ce_changed, "mean": mean.ce_changed, "kl_zero": zero.kl}
    found = {}
    for name, (numerator, denominator) in _figures(sums).items():
        if n == 0:
            found[name] = Metric(None, none)
        elif name in RECOVERED and not denominator > 0:
            ablated = sums[RECOVERED[name]] / n
            reason = f"ablation does no harm: CE {ablated:.4f} ablated, {clean / n:.4f} clean"
            found[name] = Metric(None, reason)
        else:
            found[name] = ratio(numerator, denominator, none)
    return found


def splice_intervals(
    spliced: LossMeter, zero: LossMeter, mean: LossMeter, none: str = NO_TOKENS
) -> dict[str, Interval]:
    """How sure each of `splice_metrics` is; all three meters are resampled alike."""
    parts = [meter.units.resampled() for meter in (spliced, zero, mean)]
    values: dict[str, Tensor] = {}
    if (own := parts[0]) is not None:
        t = dict(zip(SUMS, own.unbind(1), strict=True))
        ablated = (("zero", "ce_changed", 1), ("mean", "ce_changed", 2), ("kl_zero", "kl", 1))
        for name, summed, which in ablated:
            part = parts[which]
            lost = torch.full_like(t["n"], torch.nan)
            t[name] = lost if part is None else part[:, SUMS.index(summed)]
        for name, (numerator, denominator) in _figures(t).items():
            there = denominator > 0
            values[name] = torch.where(there, numerator / denominator, torch.nan)
    docs = spliced.units.n_docs
    found = splice_metrics(spliced, zero, mean, none)
    return {name: interval(values.get(name), docs, m.reason) for name, m in found.items()}


def _figures(t: Mapping[str, Any]) -> Figures:
    """The metrics as ratios of sums, of one set of sums or of each resample's."""
    n, clean, spliced = t["n"], t["ce_clean"], t["ce_changed"]
    return {
        "ce.clean_v1": (clean, n),
        "ce.spliced_v1": (spliced, n),
        "ce.zero_v1": (t["zero"], n),
        "ce.mean_v1": (t["mean"], n),
        "ce.delta_v1": (spliced - clean, n),
        "kl.spliced_v1": (t["kl"], n),
        "kl.zero_v1": (t["kl_zero"], n),
        "top1.agreement_v1": (t["agree"], n),
        "ce_recovered.zero_v1": (t["zero"] - spliced, t["zero"] - clean),
        "ce_recovered.mean_v1": (t["mean"] - spliced, t["mean"] - clean),
    }
