"""One SAE on the judge's bench: where it reads and is judged, what it has shown, what is written.

What the SAEs of one site have in common (the mask, the ablations) is counted once, in their
`Place`. A transcoder is judged at the site that it predicts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from sae_cli.errors import StoreError
from sae_cli.lm import masks
from sae_cli.lm.outliers import marked
from sae_cli.lm.restart import Clean, spot
from sae_cli.lm.sites import find_tap
from sae_cli.lm.splice import Edit
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import EvalSpec
from sae_cli.spec.work import CacheWork
from sae_cli.stages.metrics import (
    DENSITY,
    METRICS,
    LossMeter,
    Metric,
    ReconstructionMeter,
    splice_metrics,
)
from sae_cli.stages.task import Dep, Task
from sae_cli.store.acts.array import stats_of
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.atomic import write_bytes, write_json
from sae_cli.store.layout import StageDir
from sae_cli.store.records.ledger import read_done
from sae_cli.store.weights import load_sae

SPLIT = "heldout"


class Site:
    """A (layer, site) of the model, and what training saw there."""

    def __init__(self, dep: Dep, model: PreTrainedModel, device: torch.device) -> None:
        """Raises StoreError when its array is not done (any more), ModelError without such a
        site."""
        capture, cache = dep.work, StageDir(dep.path)
        assert isinstance(capture, CacheWork)
        self.tap, self.mask = find_tap(model, capture.layer, capture.site), capture.mask
        done = read_done(cache)
        if done is None:  # it was when the runner looked
            raise StoreError(f"{cache} is being made again: evaluate when it is done")
        self.limit: float | None = done.summary["outlier_norm"]
        self.mean = stats_of(cache).mean.to(device)

    def keep(self, acts: Tensor, reasons: NDArray[np.uint8]) -> Tensor:
        """bool [B, C]: the tokens that count, with the norm limit found when caching."""
        found = marked(reasons, norms_of(acts.flatten(0, -2)).view(acts.shape[:-1]), self.limit)
        return torch.from_numpy(masks.keep(found, self.mask)).to(acts.device)


@dataclass(eq=False)
class Place:
    """Where SAEs read and where they are judged, and what the model loses with nothing there."""

    read: Site
    site: Site
    """Another one than `read` of transcoders alone."""
    zero_loss: LossMeter = field(default_factory=LossMeter)
    mean_loss: LossMeter = field(default_factory=LossMeter)
    ablated: bool = False
    """Whether both have seen all the text."""

    def keep(self, clean: Clean, reasons: NDArray[np.uint8]) -> Tensor:
        """bool [B, C]: the tokens that count."""
        keep = self.site.keep(clean.acts[spot(self.site.tap)], reasons)
        if self.read is not self.site:
            keep &= self.read.keep(clean.acts[spot(self.read.tap)], reasons)
        return keep

    def ablations(self) -> tuple[tuple[LossMeter, Edit], tuple[LossMeter, Edit]]:
        """Each with its meter: to zero, and to the mean that training saw."""

        def to_mean(x: Tensor) -> Tensor:
            return self.site.mean.to(x.dtype).expand_as(x)

        return (self.zero_loss, torch.zeros_like), (self.mean_loss, to_mean)


class Judged:
    """One SAE and its meters."""

    def __init__(self, task: Task, place: Place, device: torch.device) -> None:
        """Raises StoreError when its folder can't be read, is damaged, holds numbers that are not
        finite, or is of another site's dimension."""
        self.task, self.place = task, place
        folder = task.deps["train"].path
        held = load_sae(folder)
        self.sae = SAE.from_tensors(held.tensors, held.arch, held.k).to(device)
        dims = (place.read.tap.dim, place.site.tap.dim)
        if (self.sae.d_in, self.sae.d_out) != dims:
            raise StoreError(
                f"{folder}: an SAE from {self.sae.d_in} to {self.sae.d_out} dimensions, where the "
                f"model has {dims[0]} and {dims[1]}"
            )
        self.rebuilt = ReconstructionMeter(self.sae.d_out, self.sae.d_sae, place.site.mean)
        self.loss = LossMeter()

    def edit(self, clean: Clean) -> Edit:
        """What puts its reconstruction in the place of what is there."""
        if self.place.read is self.place.site:
            return self.sae.forward
        inputs = clean.acts[spot(self.place.read.tap)]
        return lambda _: self.sae.forward(inputs)

    def write(self, spec: EvalSpec) -> None:
        """Put the metrics into the task's folder and finish it."""
        found: dict[str, Metric] = self.rebuilt.result(spec.dense_threshold)
        if spec.splice:
            found |= splice_metrics(self.loss, self.place.zero_loss, self.place.mean_loss)
        else:
            off = splice_metrics(LossMeter(), LossMeter(), LossMeter())
            found |= dict.fromkeys(off, Metric(None, "eval.splice is off"))
        record = {
            "metrics": {n: {"value": m.value, "reason": m.reason} for n, m in found.items()},
            "density_histogram_v1": self.rebuilt.histogram(),
            "tokens": self.rebuilt.n,
            "predictions": self.loss.n,
            "split": SPLIT,
            "outlier_norm": self.place.site.limit,
        }
        out = StageDir(self.task.out)
        write_json(out.path / METRICS, record)
        density = self.rebuilt.density().cpu().contiguous()
        write_bytes(out.path / DENSITY, save({"density": density}))
        values = {n: m.value for n, m in found.items()}
        self.task.finish([METRICS, DENSITY], {"metrics": values, "tokens": self.rebuilt.n})
