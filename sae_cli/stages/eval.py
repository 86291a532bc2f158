"""A trained SAE to its metrics, on held-out documents, under the mask that training used.

SAEs of one site share the clean and the ablated forwards. Where a token does not count, every
pass keeps the original activation, so clean, spliced and ablated runs differ only where the SAE
is being judged. A transcoder is judged at the site that it predicts: its prediction takes the place
of what is there. Nothing before that site is changed, so what it reads is that of the clean pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from sae_cli.errors import StoreError
from sae_cli.lm import masks
from sae_cli.lm.device import pick_device
from sae_cli.lm.load import load_model
from sae_cli.lm.outliers import marked
from sae_cli.lm.sites import Tap, find_tap
from sae_cli.lm.splice import Edit, editing, forward_logits, masked
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import EvalSpec
from sae_cli.spec.work import CacheWork, EvalWork, TokensWork
from sae_cli.stages.metrics import (
    DENSITY,
    METRICS,
    LossMeter,
    Metric,
    ReconstructionMeter,
    splice_metrics,
)
from sae_cli.stages.task import Task
from sae_cli.store.acts.array import stats_of
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.atomic import write_bytes, write_json
from sae_cli.store.blocks import BlockReader
from sae_cli.store.layout import StageDir
from sae_cli.store.records.ledger import read_done
from sae_cli.store.weights import load_sae

SPLIT = "heldout"


def run(tasks: Sequence[Task]) -> None:
    """Measure the SAEs of all tasks; they read the same site and are measured the same way."""
    first = tasks[0]
    work, source, capture = first.work, first.deps["tokens"].work, first.deps["cache"].work
    assert isinstance(work, EvalWork) and isinstance(source, TokensWork)
    assert isinstance(capture, CacheWork)
    device = pick_device(first.device)
    model = load_model(capture.model, device)
    site = _Site(first, "cache", model, device)
    read = site
    if "target" in first.deps:
        site = _Site(first, "target", model, device)
    judged = [_Judged(task, site, device) for task in tasks]
    blocks = BlockReader(first.deps["tokens"].path)
    count = _blocks_to_use(work.eval, blocks, source.data.context)
    per = max(1, work.eval.batch_tokens // source.data.context)
    label = first.slug if len(tasks) == 1 else f"{len(tasks)} SAEs of {first.deps['cache'].slug}"
    first.report.begin(label, count * source.data.context, 0, "tokens")
    for start in range(0, count, per):
        stop = min(start + per, count)
        tokens = torch.from_numpy(blocks.tokens(SPLIT, start, stop).astype(np.int64)).to(device)
        reasons = blocks.reasons(SPLIT, start, stop)
        _batch(model, read, site, judged, tokens, reasons, work.eval.splice)
        first.report.at(stop * source.data.context)
        if stop < count:
            first.leave("its start: an evaluation begins again")
    for each in judged:
        each.write(work.eval)


class _Site:
    """What the SAEs of one site have in common: where they read (or, of transcoders, also where
    they write), and what training saw there."""

    def __init__(self, task: Task, role: str, model: PreTrainedModel, device: torch.device) -> None:
        capture = task.deps[role].work
        assert isinstance(capture, CacheWork)
        self.tap, self.mask = find_tap(model, capture.layer, capture.site), capture.mask
        cache = StageDir(task.deps[role].path)
        done = read_done(cache)
        if done is None:  # it was when the runner looked
            raise StoreError(f"{cache} is being made again: evaluate when it is done")
        self.limit: float | None = done.summary["outlier_norm"]
        self.mean = stats_of(cache).mean.to(device)
        self.zero_loss, self.mean_loss = LossMeter(), LossMeter()

    def keep(self, acts: Tensor, reasons: NDArray[np.uint8]) -> Tensor:
        """bool [B, C]: the tokens that count, with the norm limit found when caching."""
        found = marked(reasons, norms_of(acts.flatten(0, -2)).view(acts.shape[:-1]), self.limit)
        return torch.from_numpy(masks.keep(found, self.mask)).to(acts.device)


class _Judged:
    """One SAE and its meters."""

    def __init__(self, task: Task, site: _Site, device: torch.device) -> None:
        self.task = task
        held = load_sae(task.deps["train"].path)
        self.sae = SAE.from_tensors(held.tensors, held.arch, held.k).to(device)
        self.rebuilt = ReconstructionMeter(self.sae.d_out, self.sae.d_sae, site.mean)
        self.loss = LossMeter()
        self.site = site

    def write(self, spec: EvalSpec) -> None:
        """Put the metrics into the task's folder and finish it."""
        found: dict[str, Metric] = self.rebuilt.result(spec.dense_threshold)
        if spec.splice:
            found |= splice_metrics(self.loss, self.site.zero_loss, self.site.mean_loss)
        else:
            off = splice_metrics(LossMeter(), LossMeter(), LossMeter())
            found |= dict.fromkeys(off, Metric(None, "eval.splice is off"))
        record = {
            "metrics": {n: {"value": m.value, "reason": m.reason} for n, m in found.items()},
            "density_histogram_v1": self.rebuilt.histogram(),
            "tokens": self.rebuilt.n,
            "predictions": self.loss.n,
            "split": SPLIT,
            "outlier_norm": self.site.limit,
        }
        out = StageDir(self.task.out)
        write_json(out.path / METRICS, record)
        density = self.rebuilt.density().cpu().contiguous()
        write_bytes(out.path / DENSITY, save({"density": density}))
        values = {n: m.value for n, m in found.items()}
        self.task.finish([METRICS, DENSITY], {"metrics": values, "tokens": self.rebuilt.n})


def _batch(
    model: PreTrainedModel,
    read: _Site,
    site: _Site,
    judged: Sequence[_Judged],
    tokens: Tensor,
    reasons: NDArray[np.uint8],
    splice: bool,
) -> None:
    clean, inputs, acts = _clean(model, read, site, tokens)
    keep = site.keep(acts, reasons)
    if read is not site:
        keep &= read.keep(inputs, reasons)
    if splice:
        mean = site.mean.to(acts.dtype)
        for meter, edit in (
            (site.zero_loss, torch.zeros_like),
            (site.mean_loss, lambda x: mean.expand_as(x)),
        ):
            meter.update(clean, _with(model, tokens, site.tap, edit, keep), tokens, keep)
    kept, wanted = inputs[keep], acts[keep]
    for each in judged:
        latents = each.sae.encode(kept)
        rebuilt = each.sae.decode(latents, kept)
        each.rebuilt.update(wanted, rebuilt, latents)
        if splice:
            edit = each.sae.forward if read is site else partial(_predicted, each.sae, inputs)
            changed = _with(model, tokens, site.tap, edit, keep)
            each.loss.update(clean, changed, tokens, keep)


def _clean(
    model: PreTrainedModel, read: _Site, site: _Site, tokens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the unchanged model, and the activations of two sites, which may be one."""
    seen: dict[str, Tensor] = {}

    def look(name: str, x: Tensor) -> Tensor:
        seen[name] = x
        return x

    with ExitStack() as stack:
        if read is not site:
            stack.enter_context(editing(model, read.tap, partial(look, "read")))
        clean = forward_logits(model, tokens, tap=site.tap, edit=partial(look, "judged"))
    return clean, seen.get("read", seen["judged"]), seen["judged"]


def _predicted(sae: SAE, inputs: Tensor, _: Tensor) -> Tensor:
    return sae.forward(inputs)


def _with(model: PreTrainedModel, tokens: Tensor, tap: Tap, edit: Edit, keep: Tensor) -> Tensor:
    return forward_logits(model, tokens, tap=tap, edit=masked(edit, keep))


def _blocks_to_use(spec: EvalSpec, blocks: BlockReader, context: int) -> int:
    there = blocks.n_blocks(SPLIT)
    return there if spec.tokens is None else min(there, -(-spec.tokens // context))
