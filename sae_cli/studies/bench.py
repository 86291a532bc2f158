"""What a study is handed, and what it gives back.

A study looks at all SAEs that read one site of one model, so that they share forwards. It knows
nothing of stages or folders; `stages.study` fills a `Bench`, calls `run(spec, bench)`, and writes
what comes back. What a study finds of an SAE depends on that SAE (and, where it says so, on its
`twins`) alone, never on who else is studied with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from sae_cli.lm import masks
from sae_cli.lm.capture import Capture
from sae_cli.lm.outliers import marked
from sae_cli.lm.sites import Tap
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import DataSpec, MaskSpec, ModelSpec
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.blocks import BlockReader

Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class Figure:
    """One number that a study has found, as a row of the results table."""

    metric: str
    """Its name, with a version: `truth.f1_v1`."""
    value: float | None
    reason: str | None = None
    """Why there is no value."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval, where there is one."""
    docs: int | None = None
    """Documents that the interval was drawn from."""
    slice: str = "kept"
    """What it is of, where not all the tokens that count: `topic=river`, `k=5`."""
    control: str | None = None
    """What stands in the SAE's place: `neurons`, `random`, ...; None for the SAE itself."""
    n: int | None = None
    """How many tokens, examples or labels it is over."""
    seed: int | None = None
    """What was drawn with, where something was."""


@dataclass
class Findings:
    """All that a study says of one SAE."""

    figures: list[Figure]
    detail: dict[str, Any] = field(default_factory=dict)
    """JSON for readers who want more: which latents, on which text. It stands in study.json."""
    method: dict[str, Any] = field(default_factory=dict)
    """JSON: how it was done, seeds, sizes, models asked."""


@dataclass(frozen=True)
class Seen:
    """Blocks of one forward, and what the site holds."""

    tokens: Tensor
    """int64 [b, C], on the device."""
    documents: NDArray[np.int64]
    """[b, C]: the document of each token, by its number in the source."""
    keep: Tensor
    """bool [b, C], on the device: the tokens that count."""
    acts: Tensor
    """[b, C, d_in], raw, in the model's dtype; read only."""


@dataclass
class Bench:
    """A site of a model, its text, and the SAEs that read there."""

    model: PreTrainedModel
    spec: ModelSpec
    """What the model is: hub id, folder or embedded."""
    tap: Tap
    mask: MaskSpec
    limit: float | None
    """Norm above which a token is an outlier and does not count."""
    mean: Tensor
    """float64 [d_in]: the site's mean over training tokens."""
    blocks: BlockReader
    batch_tokens: int
    device: torch.device
    saes: Mapping[str, SAE]
    """By the key of their stage, on the device."""
    twins: Mapping[str, tuple[SAE, ...]]
    """For each of `saes`, those of the sweep that differ from it in their seed alone."""
    scratch: Path
    """A folder that lives until the study is done: what was expensive may be kept there, and a
    study that was killed finds it again."""
    cache: Path
    """A folder of the workspace that outlives the study: answers that were paid for."""
    leave: Callable[[str], None] = lambda where: None
    """`leave(where)`: call it now and then; raises Interrupted when a stop was asked for."""
    note: Callable[[str], None] = print
    """One line for the log."""
    data: DataSpec = field(default_factory=DataSpec)
    """What the blocks were packed from."""
    transcoders: frozenset[str] = frozenset()
    """Keys of those of `saes` that predict another site than they read: all of them, or none."""
    target: tuple[Tap, float | None] | None = None
    """What transcoders predict, and its norm limit: tokens of the text count at both sites."""

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        from sae_cli.lm.load import load_tokenizer

        return load_tokenizer(self.spec)

    def text(self, split: Split, tokens: int | None = None) -> Iterator[Seen]:
        """Forwards over the first `tokens` (rounded up to whole blocks; None: all) of a split."""
        context, there = self.blocks.context, self.blocks.n_blocks(split)
        count = there if tokens is None else min(there, -(-tokens // context))
        taps = [self.tap] if self.target is None else [self.tap, self.target[0]]
        per, reader = max(1, self.batch_tokens // context), Capture(self.model, taps)
        for start in range(0, count, per):
            stop = min(start + per, count)
            blocks = torch.from_numpy(self.blocks.tokens(split, start, stop).astype(np.int64))
            acts, *predicted = reader(blocks)
            reasons = self.blocks.reasons(split, start, stop)
            keep = self.keep(acts, reasons)
            if self.target is not None:
                keep &= self._within(predicted[0], reasons, self.target[1])
            yield Seen(
                tokens=blocks.to(self.device),
                documents=self.blocks.document(split, start, stop),
                keep=keep,
                acts=acts.to(self.device),
            )

    def acts(self, tokens: Tensor) -> Tensor:
        """[b, C, d_in] of int64 `tokens` [b, C] that are not of the text; no padding."""
        (acts,) = Capture(self.model, [self.tap])(tokens)
        return acts.to(self.device)

    def keep(self, acts: Tensor, reasons: NDArray[np.uint8]) -> Tensor:
        """bool [b, C], on the device: the tokens that count, by the mask of the SAEs' training, of
        `acts` [b, C, d_in] and the `reasons` [b, C] that tokens alone give (see `lm.masks`). What a
        transcoder predicts has no say here: `text` asks it too."""
        return self._within(acts, reasons, self.limit)

    def _within(self, acts: Tensor, reasons: NDArray[np.uint8], limit: float | None) -> Tensor:
        norms = norms_of(acts.flatten(0, -2)).view(acts.shape[:-1])
        found = masks.keep(marked(reasons, norms, limit), self.mask)
        return torch.from_numpy(found).to(self.device)
