"""What one reconstruction of a site has shown: its meters, and the record made of them.

An SAE and the controls beside it are scored by the same meters and recorded in the same form.
`eval_sae` documents the file that the record is part of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from sae_cli.lm.restart import Clean, spot
from sae_cli.lm.splice import Edit
from sae_cli.spec.stages import EvalSpec
from sae_cli.stages.bootstrap import Interval
from sae_cli.stages.eval_place import Counts, LossSlices, Place
from sae_cli.stages.losses import LossMeter, splice_intervals, splice_metrics
from sae_cli.stages.metrics import CentredSums, Metric, ReconstructionMeter

OFF = "eval.splice is off"
NO_SPECIAL = {
    "special_sources": "no prediction is made at a special token",
    "special_targets": "no special token is predicted by a token that counts",
}


class Coder(Protocol):
    """What rebuilds activations: an SAE, or a control."""

    @property
    def d_sae(self) -> int: ...
    @property
    def d_out(self) -> int: ...
    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor: ...
    def forward(self, x: Tensor) -> Tensor: ...


class Scores:
    """A coder at a place, and its meters."""

    def __init__(self, coder: Coder, place: Place) -> None:
        self.coder, self.place = coder, place
        documents, mean = place.n_documents, place.site.mean
        self.rebuilt = ReconstructionMeter(coder.d_out, coder.d_sae, mean, documents)
        """Of the tokens that count."""
        self.outliers = ReconstructionMeter(coder.d_out, coder.d_sae, mean, documents)
        """Of those that would count but for their norm."""
        self.losses = LossSlices(documents)

    def drop(self) -> None:
        """Let go of the coder's weights: it will see no more text."""
        del self.coder

    def edit(self, clean: Clean) -> Edit:
        """What puts its reconstruction in the place of what is there."""
        if self.place.read is self.place.site:
            return self.coder.forward
        inputs = clean.acts[spot(self.place.read.tap)]
        return lambda _: self.coder.forward(inputs)

    def rebuild(self, clean: Clean, kept: Tensor, wanted: Tensor, counts: Counts) -> None:
        """Show it a batch: `kept [n, d_in]` and `wanted [n, d_out]` are of the tokens that
        count."""
        latents = self.coder.encode(kept)
        self.rebuilt.update(
            wanted, self.coder.decode(latents, kept), latents, counts.kept_by_document
        )
        del latents
        read, site = (clean.acts[spot(s.tap)] for s in (self.place.read, self.place.site))
        loud = read[counts.outliers]
        if len(loud):
            latents = self.coder.encode(loud)
            self.outliers.update(
                site[counts.outliers],
                self.coder.decode(latents, loud),
                latents,
                counts.outliers_by_document,
            )

    def record(self, spec: EvalSpec) -> dict[str, Any]:
        """`metrics`, `intervals`, `tokens`, `predictions` and `slices`."""
        rebuilt, place = self.rebuilt, self.place
        kept = reconstruction(rebuilt, place.centred, spec)
        both = rebuilt.plus(self.outliers)
        loud = reconstruction(both, place.centred.plus(place.centred_outliers), spec)
        for part in ("metrics", "intervals"):
            kept[part] |= self._splice("kept", spec)[part]
        kept["predictions"] = self.losses.kept.n
        loud["outliers"] = self.outliers.n
        slices = {"kept": kept, "with_outliers": loud}
        slices |= {name: self._splice(name, spec) for name in NO_SPECIAL}
        return {**kept, "slices": slices}

    def _splice(self, name: str, spec: EvalSpec) -> dict[str, Any]:
        meters = [
            getattr(s, name) for s in (self.losses, self.place.zero_loss, self.place.mean_loss)
        ]
        none = (NO_SPECIAL[name],) if name in NO_SPECIAL else ()
        if not spec.splice:
            meters, none = [LossMeter()] * 3, (OFF,)
        out = {
            "metrics": plain(splice_metrics(*meters, *none)),
            "intervals": told(splice_intervals(*meters, *none)),
        }
        return out if name == "kept" else {**out, "predictions": meters[0].n}


def reconstruction(
    meter: ReconstructionMeter, centred: CentredSums, spec: EvalSpec
) -> dict[str, Any]:
    """Metrics and intervals of the activations that a meter has seen, and how many."""
    return {
        "metrics": plain(meter.result(spec.dense_threshold)),
        "intervals": told(meter.intervals(centred)),
        "tokens": meter.n,
    }


def plain(found: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    """Metrics as plain data."""
    return {name: {"value": m.value, "reason": m.reason} for name, m in found.items()}


def told(found: Mapping[str, Interval]) -> dict[str, dict[str, Any]]:
    """Intervals as plain data."""
    return {name: each.record() for name, each in found.items()}
