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

KEPT = "kept"
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
        self.losses = LossSlices(documents, place.parts)
        self.parts = {
            name: ReconstructionMeter(coder.d_out, coder.d_sae, mean, documents)
            for name in place.parts
        }
        """Of tokens that count and are looked at apart."""
        self.longer = {name: Scores(coder, there) for name, there in place.longer.items()}
        """The same on longer contexts, by the name of their slices."""

    def drop(self) -> None:
        """Let go of the coder's weights: it will see no more text."""
        del self.coder
        for each in self.longer.values():
            each.drop()

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
        rebuilt = self.coder.decode(latents, kept)
        self.rebuilt.update(wanted, rebuilt, latents, counts.kept_by_document)
        for name, meter in self.parts.items():
            chosen, segments = counts.part(name)
            meter.update(wanted[chosen], rebuilt[chosen], latents[chosen], segments)
        del latents, rebuilt
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
            kept[part] |= self._splice(KEPT, spec)[part]
        kept["predictions"] = self.losses.kept.n
        loud["outliers"] = self.outliers.n
        slices = {KEPT: kept, "with_outliers": loud}
        slices |= {name: self._splice(name, spec) for name in NO_SPECIAL}
        slices |= {name: self._part(name, spec) for name in place.parts}
        for name, each in self.longer.items():
            there = each.record(spec)["slices"]
            slices |= {f"{name}:{own}": there[own] for own in (KEPT, *each.place.parts)}
        slices |= {name: blank(kept, why) for name, why in place.absent.items()}
        return {**kept, "slices": slices}

    def _part(self, name: str, spec: EvalSpec) -> dict[str, Any]:
        found = reconstruction(self.parts[name], self.place.centred_parts[name], spec)
        spliced = self._splice(name, spec)
        for part in ("metrics", "intervals"):
            found[part] |= spliced[part]
        return found | {"predictions": spliced["predictions"]}

    def _splice(self, name: str, spec: EvalSpec) -> dict[str, Any]:
        slices = (self.losses, self.place.zero_loss, self.place.mean_loss)
        spliced, zero, mean = (each.of(name) for each in slices)
        none = (NO_SPECIAL[name],) if name in NO_SPECIAL else ()
        if not spec.splice:
            spliced, none = LossMeter(), (OFF,)
            zero = mean = spliced
        out = {
            "metrics": plain(splice_metrics(spliced, zero, mean, *none)),
            "intervals": told(splice_intervals(spliced, zero, mean, *none)),
        }
        return out if name == KEPT else {**out, "predictions": spliced.n}


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


def blank(record: dict[str, Any], reason: Any) -> dict[str, Any]:
    """A record of the same form in which every number is null for that reason."""
    nothing = {
        "metrics": {"value": None, "reason": reason},
        "intervals": {"low": None, "high": None, "n_docs": 0, "reason": reason},
    }
    out: dict[str, Any] = {}
    for name, part in record.items():
        if name in nothing:
            out[name] = {metric: dict(nothing[name]) for metric in part}
        elif name == "slices":
            out[name] = {each: blank(one, reason) for each, one in part.items()}
        else:
            out[name] = 0
    return out
