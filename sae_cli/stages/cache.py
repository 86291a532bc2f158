"""Token blocks to stored activations: one forward feeds every (layer, site) of a model.

The batches of the forward depend on nothing but the spec, so a site's array is the same whether
its neighbours were captured with it or not. The mask is decided here, once, and stored with the
rows: training and every metric read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.errors import DataError, ModelError
from sae_cli.lm import masks
from sae_cli.lm.capture import capture
from sae_cli.lm.check import check_layer
from sae_cli.lm.device import pick_device
from sae_cli.lm.load import load_model
from sae_cli.lm.outliers import marked, norms
from sae_cli.lm.sites import Tap, find_tap
from sae_cli.spec.stages import CacheSpec, MaskSpec
from sae_cli.spec.work import CacheWork, TokensWork
from sae_cli.stages.task import Task
from sae_cli.store.activations import ActivationWriter
from sae_cli.store.blocks import BlockReader

SPLIT = "train"


def run(tasks: Sequence[Task]) -> None:
    """Capture the activations of all tasks; they share a model, its tokens and the cache spec.

    Raises ModelError when the model can't be had or lacks a site, StoreError when the disk fails.
    """
    works = [w for w in (t.work for t in tasks) if isinstance(w, CacheWork)]
    assert works and len(works) == len(tasks)
    spec, source = works[0].cache, tasks[0].deps["tokens"]
    assert isinstance(source.work, TokensWork)
    data, policy = source.work.data, works[0].mask
    blocks = BlockReader(source.path)
    model = load_model(works[0].model, pick_device(tasks[0].device))
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and data.context > limit:
        raise ModelError(
            f"data.context is {data.context}, but the model was made for {limit}",
            hint=f"--set data.context={limit}",
        )
    for layer in sorted({w.layer for w in works}):
        check_layer(model, layer)
    taps = [find_tap(model, w.layer, w.site) for w in works]
    passes = _Passes(blocks, data.context, spec.batch_tokens)
    limits = _outlier_limits(model, taps, passes, policy)
    with ExitStack() as stack:
        arrays = [
            _Array(task, tap, spec, passes, limit, stack)
            for task, tap, limit in zip(tasks, taps, limits, strict=True)
        ]
        first = min(a.first_batch for a in arrays)
        label = tasks[0].slug if len(tasks) == 1 else f"{len(tasks)} sites"
        task = tasks[0]
        task.report.begin(label, passes.rows, min(first * passes.batch_rows, passes.rows), "tokens")
        for b in range(first, passes.count):
            tokens, reasons = passes.batch(b)
            wanted = [i for i, a in enumerate(arrays) if a.first_batch <= b]
            found = capture(model, tokens, [taps[i] for i in wanted])
            for i, acts in zip(wanted, found, strict=True):
                arrays[i].add(acts.flatten(0, 1), reasons, policy)
            done = min((b + 1) * passes.batch_rows, passes.rows)
            task.report.at(done)
            if done < passes.rows and all(a.advanced for a in arrays):
                safe = min(a.committed for a in arrays)
                task.leave(f"{safe:,} of {passes.rows:,} tokens")
        for task, array in zip(tasks, arrays, strict=True):
            summary = array.writer.finish()
            files = [str(p.relative_to(task.out)) for p in array.writer.records()]
            about = {"outlier_norm": array.limit, "module": array.module}
            task.finish(files, {**summary, **about})


class _Passes:
    """The forward passes over the training blocks: which tokens each reads."""

    def __init__(self, blocks: BlockReader, context: int, batch_tokens: int) -> None:
        self._blocks, self._per = blocks, max(1, batch_tokens // context)
        self.batch_rows = self._per * context
        self.context = context
        self.rows = blocks.n_blocks(SPLIT) * context
        self.count = -(-self.rows // self.batch_rows)

    def batch(self, b: int) -> tuple[Tensor, NDArray[np.uint8]]:
        """Token ids int64 [B, C] of pass `b`, and the reasons of its rows [B * C]."""
        start = b * self._per
        stop = min(start + self._per, self._blocks.n_blocks(SPLIT))
        tokens = torch.from_numpy(self._blocks.tokens(SPLIT, start, stop).astype(np.int64))
        return tokens, self._blocks.reasons(SPLIT, start, stop).reshape(-1)


class _Array:
    """One array under construction: gathers batches until they fill a chunk."""

    def __init__(
        self,
        task: Task,
        tap: Tap,
        spec: CacheSpec,
        passes: _Passes,
        limit: float | None,
        stack: ExitStack,
    ) -> None:
        self.limit, self.module = limit, tap.name
        self._dtype: torch.dtype = getattr(torch, spec.dtype)
        self._chunk = spec.chunk_rows(tap.dim, passes.context, passes.rows)
        about = {
            "key": task.key,
            "layer": tap.layer,
            "site": tap.site,
            "module": tap.name,
            "context": passes.context,
            "outlier_norm": limit,
        }
        self.writer = stack.enter_context(
            ActivationWriter(task.out, passes.rows, tap.dim, self._chunk, spec.dtype, about)
        )
        self._first_chunk, self._total = self.writer.next_chunk, passes.rows
        self.first_batch, self._behind = divmod(self.committed, passes.batch_rows)
        if self.committed == passes.rows:
            self.first_batch = passes.count
        self._acts = torch.empty(0, tap.dim, dtype=self._dtype)
        self._reasons = np.empty(0, np.uint8)

    @property
    def committed(self) -> int:
        """Rows that survive whatever happens now."""
        return min(self.writer.next_chunk * self._chunk, self._total)

    @property
    def advanced(self) -> bool:
        """Whether this run has committed something: leaving before would repeat itself for ever."""
        return self.writer.next_chunk > self._first_chunk or self.committed == self._total

    def add(self, acts: Tensor, reasons: NDArray[np.uint8], policy: MaskSpec) -> None:
        """Take the rows [n, d] of one pass; commits every chunk that they fill."""
        found = marked(reasons, acts, self.limit)
        reasons = np.where(masks.keep(found, policy), np.uint8(0), found)  # 0 is what counts
        self._acts = torch.cat([self._acts.to(acts.device), acts.to(self._dtype)[self._behind :]])
        self._reasons = np.concatenate([self._reasons, reasons[self._behind :]])
        self._behind = 0  # rows of the first pass that were committed by an earlier run
        while (k := self.writer.next_chunk) < self.writer.n_chunks:
            rows = self.writer.rows_in(k)
            if len(self._acts) < rows:
                break
            self.writer.write(k, self._acts[:rows], self._reasons[:rows])
            self._acts, self._reasons = self._acts[rows:], self._reasons[rows:]


def _outlier_limits(
    model: torch.nn.Module, taps: Sequence[Tap], passes: _Passes, policy: MaskSpec
) -> list[float | None]:
    """For each tap, the norm above which a token is an outlier: a multiple of the sample's median.

    The sample is the first `outlier_sample` training tokens, those that count otherwise.
    """
    if policy.outlier_multiple is None:
        return [None] * len(taps)
    found: list[list[Tensor]] = [[] for _ in taps]
    for tokens, reasons in _sample(passes, policy.outlier_sample):
        kept = torch.from_numpy(masks.keep(reasons, policy))
        for norms_of, acts in zip(found, capture(model, tokens, taps), strict=True):
            norms_of.append(norms(acts.flatten(0, 1)).cpu()[kept])
    if not all(sum(map(len, n)) for n in found):
        raise DataError(
            f"the mask drops every one of the first {policy.outlier_sample:,} training tokens",
            hint="loosen data.mask in the spec",
        )
    medians = [float(torch.cat(n).median()) for n in found]
    return [policy.outlier_multiple * m for m in medians]


def _sample(passes: _Passes, n: int) -> Iterator[tuple[Tensor, NDArray[np.uint8]]]:
    for b in range(min(passes.count, -(-n // passes.batch_rows))):
        yield passes.batch(b)
