"""Where SAEs are judged: what they read, which tokens count there, what the model loses with
nothing there.

What the SAEs of one place have in common (the mask, the ablations, sums of x alone) is counted
once. A transcoder is judged at the site that it predicts, on tokens that count at both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from sae_cli.errors import StoreError
from sae_cli.lm import masks
from sae_cli.lm.outliers import marked
from sae_cli.lm.restart import Clean, spot
from sae_cli.lm.sites import find_tap
from sae_cli.lm.splice import Edit
from sae_cli.spec.work import CacheWork
from sae_cli.stages.bootstrap import Segments
from sae_cli.stages.losses import LossMeter
from sae_cli.stages.metrics import CentredSums
from sae_cli.stages.task import Dep
from sae_cli.store.acts.array import stats_of
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.layout import StageDir
from sae_cli.store.records.ledger import read_done


@dataclass(frozen=True)
class Batch:
    """Held-out blocks of one forward."""

    tokens: Tensor
    """int64 [b, C], on the device."""
    reasons: NDArray[np.uint8]
    """[b, C]: why a token does not count, as packing found."""
    documents: Tensor
    """int64 [b, C], on the device: the document of each token, numbered from 0 in the text."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """bool [b, C], on the device, by name: tokens that are looked at apart, where they count."""


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

    def reasons(self, acts: Tensor, reasons: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`reasons` [B, C], with the norms of `acts` [B, C, d] held to the limit found when
        caching."""
        return marked(reasons, norms_of(acts.flatten(0, -2)).view(acts.shape[:-1]), self.limit)


class Counts:
    """Which tokens of a batch count at a place, as bool [b, C] on the device."""

    def __init__(self, batch: Batch, sites: list[tuple[Site, NDArray[np.uint8]]]) -> None:
        """`sites` are those of a place, each with its reasons."""
        device, special = batch.tokens.device, (batch.reasons & masks.SPECIAL) != 0
        keep, loud, marker = (np.ones_like(special) for _ in range(3))
        for site, found in sites:
            keep &= masks.keep(found, site.mask)
            loud &= masks.keep(found & ~np.uint8(masks.OUTLIER), site.mask)
            marker &= masks.keep(found & ~np.uint8(masks.SPECIAL), site.mask)
        before = np.zeros_like(special)
        before[:, :-1] = special[:, 1:]
        self._documents = batch.documents
        self.keep = torch.from_numpy(keep).to(device)
        """The tokens that count."""
        self.parts = {name: self.keep & part for name, part in batch.parts.items()}
        """Those of each part that count."""
        self.outliers = torch.from_numpy(loud & ~keep).to(device)
        """Those that would count but for their norm."""
        self.sources = torch.from_numpy(special & marker).to(device)
        """Special tokens that nothing but their being special can drop."""
        self.targets = torch.from_numpy(keep & before).to(device)
        """Tokens that count and stand before a special one."""

    @property
    def documents(self) -> Tensor:
        """int64 [b, C]."""
        return self._documents

    @cached_property
    def kept_by_document(self) -> Segments:
        """The documents of the tokens that count."""
        return Segments(self._documents[self.keep])

    def part(self, name: str) -> tuple[Tensor, Segments]:
        """Which of the tokens that count are of a part, bool [n], and their documents."""
        if name not in self._parts:
            chosen = self.parts[name]
            self._parts[name] = chosen[self.keep], Segments(self._documents[chosen])
        return self._parts[name]

    @cached_property
    def _parts(self) -> dict[str, tuple[Tensor, Segments]]:
        return {}

    @cached_property
    def outliers_by_document(self) -> Segments:
        """The documents of those that would but for their norm."""
        return Segments(self._documents[self.outliers])


class LossSlices:
    """Predictions, and some of them apart, from the same logits."""

    def __init__(self, documents: int = 0, parts: Iterable[str] = ()) -> None:
        """`documents` is how many the text has; `parts` are of the tokens that count."""
        self.kept = LossMeter(documents)
        self.special_sources = LossMeter(documents)
        """Made at special tokens. Where the mask drops these, they keep their activation, and what
        is measured is what the rest of the text does to them."""
        self.special_targets = LossMeter(documents)
        """Made at tokens that count, of special tokens."""
        self.parts = {name: LossMeter(documents) for name in parts}

    def of(self, name: str) -> LossMeter:
        """The meter of a slice."""
        if name in self.parts:
            return self.parts[name]
        meter = getattr(self, name)
        assert isinstance(meter, LossMeter)
        return meter

    def update(self, clean: Clean, changed: Tensor, counts: Counts) -> None:
        """Count a batch by its logits `[b, C, V]`."""
        for meter, chosen in (
            (self.kept, counts.keep),
            (self.special_sources, counts.sources),
            (self.special_targets, counts.targets),
            *((meter, counts.parts[name]) for name, meter in self.parts.items()),
        ):
            meter.update(clean.logits, changed, clean.blocks, chosen, counts.documents)


class Place:
    """Where SAEs read and where they are judged."""

    def __init__(
        self,
        read: Site,
        site: Site,
        documents: int,
        parts: Iterable[str] = (),
        absent: Mapping[str, str] | None = None,
    ) -> None:
        """`site` is another one than `read` of transcoders alone; the text has so many `documents`,
        `parts` that are looked at apart, and others that it can't have, with why."""
        self.read, self.site, self.n_documents = read, site, documents
        self.parts, self.absent = tuple(parts), dict(absent or {})
        self.longer: dict[str, Place] = {}
        """The same place on the same text at longer contexts, by the name of the slices."""
        self.zero_loss = LossSlices(documents, self.parts)
        self.mean_loss = LossSlices(documents, self.parts)
        self.centred = CentredSums(site.mean, documents)
        """Of the tokens that count."""
        self.centred_parts = {name: CentredSums(site.mean, documents) for name in self.parts}
        self.centred_outliers = CentredSums(site.mean, documents)
        self.seen = False
        """Whether all of these have seen all the text."""

    def counts(self, clean: Clean, batch: Batch) -> Counts:
        """The tokens that count."""
        sites = [self.site] if self.read is self.site else [self.site, self.read]
        found = [(s, s.reasons(clean.acts[spot(s.tap)], batch.reasons)) for s in sites]
        return Counts(batch, found)

    def see(self, acts: Tensor, counts: Counts) -> None:
        """Count what the clean pass gave at `site`, `[b, C, d]`."""
        kept = acts[counts.keep]
        self.centred.add(kept, counts.kept_by_document)
        self.centred_outliers.add(acts[counts.outliers], counts.outliers_by_document)
        for name, sums in self.centred_parts.items():
            chosen, segments = counts.part(name)
            sums.add(kept[chosen], segments)

    def ablations(self) -> tuple[tuple[LossSlices, Edit], tuple[LossSlices, Edit]]:
        """Each with its meters: to zero, and to the mean that training saw."""

        def to_mean(x: Tensor) -> Tensor:
            return self.site.mean.to(x.dtype).expand_as(x)

        return (self.zero_loss, torch.zeros_like), (self.mean_loss, to_mean)
