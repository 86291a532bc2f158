"""The forward passes over the training blocks: which tokens each reads, and what they tell of a
model before its activations are stored.

A pass depends on nothing but the spec, so whoever makes it, and with whichever neighbours, gets
the same activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from sae_cli.errors import DataError
from sae_cli.lm import masks
from sae_cli.lm.capture import Capture
from sae_cli.lm.sites import Tap
from sae_cli.spec.stages import MaskSpec
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.blocks import BlockReader

SPLIT = "train"


class Passes:
    """Batches of whole training blocks, in order."""

    def __init__(self, blocks: BlockReader, batch_tokens: int) -> None:
        self._blocks, self._per = blocks, max(1, batch_tokens // blocks.context)
        self.batch_rows = self._per * blocks.context
        """Rows of a pass; fewer in the last."""
        self.context = blocks.context
        self.rows = blocks.n_blocks(SPLIT) * self.context
        """Rows of all passes."""
        self.count = -(-self.rows // self.batch_rows)

    def batch(self, b: int) -> tuple[Tensor, NDArray[np.uint8]]:
        """Token ids int64 [B, C] of pass `b`, and the reasons of its rows [B * C]."""
        start = b * self._per
        stop = min(start + self._per, self._blocks.n_blocks(SPLIT))
        tokens = torch.from_numpy(self._blocks.tokens(SPLIT, start, stop).astype(np.int64))
        return tokens, self._blocks.reasons(SPLIT, start, stop).reshape(-1)

    def covering(self, wanted: Iterable[range]) -> list[int]:
        """The passes that hold any of these rows, in order."""
        size = self.batch_rows
        return sorted(
            {b for rows in wanted for b in range(rows.start // size, -(-rows.stop // size))}
        )


def outlier_limits(
    model: PreTrainedModel, taps: Sequence[Tap], passes: Passes, policy: MaskSpec
) -> list[float | None]:
    """For each tap, the norm above which a token is an outlier: a multiple of the sample's median.

    The sample is the first `outlier_sample` training tokens, those that count otherwise. Raises
    DataError when none of them does.
    """
    if policy.outlier_multiple is None:
        return [None] * len(taps)
    found: list[list[Tensor]] = [[] for _ in taps]
    reader, left = Capture(model, taps), policy.outlier_sample
    for tokens, reasons in _sample(passes, left) if taps else ():
        kept = torch.from_numpy(masks.keep(reasons, policy))
        kept[left:] = False  # a pass is made whole, so that it gives the bits that are stored
        left -= len(reasons)
        for norms, acts in zip(found, reader(tokens), strict=True):
            norms.append(norms_of(acts.flatten(0, 1)).cpu()[kept])
    if not all(sum(map(len, n)) for n in found):
        raise DataError(
            f"the mask drops every one of the first {policy.outlier_sample:,} training tokens",
            hint="loosen data.mask in the spec",
        )
    medians = [float(torch.cat(n).median()) for n in found]
    return [policy.outlier_multiple * m for m in medians]


def _sample(passes: Passes, n: int) -> Iterator[tuple[Tensor, NDArray[np.uint8]]]:
    """The passes that hold the first `n` rows."""
    for b in range(min(passes.count, -(-n // passes.batch_rows))):
        yield passes.batch(b)
