"""One pass over a split: the text, and for each dictionary what some of its latents did there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sae_cli.spec.studies import ExplanationsStudy
from sae_cli.studies.bench import Bench, Split
from sae_cli.studies.explain.arrays import Ints
from sae_cli.studies.explain.counts import Counts
from sae_cli.studies.explain.text import Text
from sae_cli.studies.explain.windows import Windows

ROWS = 1024
"""Tokens that are encoded at a time: all latents of these are in memory, and no more."""


class Dictionary(Protocol):
    """What has latents."""

    @property
    def d_sae(self) -> int: ...

    def encode(self, x: Tensor) -> Tensor:
        """`[n, d_sae]` of activations `x [n, d_in]`, zero where a latent does not fire."""
        ...


@dataclass(frozen=True)
class Wanted:
    """A dictionary, and which of its latents are looked at."""

    dictionary: Dictionary
    latents: Ints


class Gathered:
    """What the latents of one dictionary did in a text."""

    def __init__(self, wanted: Wanted, window: int, seed: int) -> None:
        self.latents = wanted.latents
        self.counts = Counts(len(wanted.latents))
        self.windows = Windows(wanted.latents, window, seed)
        self._dictionary = wanted.dictionary

    def add(self, acts: Tensor, keep: Tensor, text: Text, suffixes: Ints) -> None:
        """Blocks `acts [b, C, d_in]`, the next of `text`, which has them already."""
        blocks, context = keep.shape
        values = self._encoded(acts.flatten(0, 1)) * keep.flatten()[:, None]
        at, latent = values.nonzero(as_tuple=True)
        found = values[at, latent].double().cpu().numpy()
        self.counts.add(latent.cpu().numpy(), suffixes.ravel()[at.cpu().numpy()], found)
        per = context // text.window
        whole = values.view(blocks, context, -1)[:, : per * text.window]
        first = text.blocks - blocks
        self.windows.add(
            np.arange(first * per, (first + blocks) * per),
            whole.reshape(blocks * per, text.window, -1).cpu().numpy(),
            keep[:, : per * text.window].reshape(-1, text.window).any(1).cpu().numpy(),
        )

    def _encoded(self, acts: Tensor) -> Tensor:
        """float32 `[n, latents]`: how strongly they fire."""
        chosen = torch.from_numpy(self.latents).to(acts.device)
        parts = [self._dictionary.encode(part)[:, chosen] for part in torch.split(acts, ROWS)]
        return torch.cat(parts).float().clamp_min(0.0)


def gather(
    bench: Bench, spec: ExplanationsStudy, split: Split, wanted: Mapping[str, Wanted]
) -> tuple[Text, dict[str, Gathered]]:
    """The text of `split`, and what was `wanted`, by the same names."""
    tokens = spec.train_tokens if split == "train" else spec.heldout_tokens
    window = min(spec.window, bench.blocks.context)
    base = int(bench.model.get_input_embeddings().num_embeddings) + 2
    text = Text(window, base, spec.order)
    out = {name: Gathered(each, window, spec.seed) for name, each in wanted.items()}
    for seen in bench.text(split, tokens):
        bench.leave(f"reading {split} text for explanations")
        ids = seen.tokens.cpu().numpy().astype(np.int32)
        text.add(ids, seen.keep.cpu().numpy(), seen.documents)
        suffixes = text.suffixes(ids)
        for each in out.values():
            each.add(seen.acts, seen.keep, text, suffixes)
    text.close()
    return text, out
