"""One pass over a text fills the dashboards of all SAEs of a model.

Each forward feeds every SAE. Rows are encoded a few at a time, and only what is not zero goes on.
SAEs are held in groups that fit the room they are given; each group pays its own pass.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from sae_cli.lm import masks
from sae_cli.lm.capture import Capture
from sae_cli.lm.outliers import marked
from sae_cli.sae.base import SAE
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.dashboards import Corpus, Dashboard
from sae_cli.studies.dashboards.collect import EDGES, Collector, Sizes
from sae_cli.studies.dashboards.lens import lens, neighbours
from sae_cli.studies.dashboards.texts import Text
from sae_cli.studies.watch.live import Live

BATCH_TOKENS = 4096
ENTRIES = 2**24
"""Latents, zeros and all, that are in memory at a time."""
TOKENS_SHOWN, NEIGHBOURS = 10, 10


@dataclass(frozen=True)
class Watched:
    """An SAE at its site, and what to call it."""

    name: str
    live: Live
    facts: Mapping[str, Any]
    notes: Mapping[int, Mapping[str, Any]]
    lacking: Mapping[str, str]


def dashboards(
    watched: Sequence[Watched],
    model: PreTrainedModel,
    text: Text,
    sizes: Sizes,
    *,
    at: Callable[[int], None] = lambda done: None,
    leave: Callable[[str], None] = lambda where: None,
) -> Iterator[Dashboard]:
    """The dashboards of SAEs of one model, one after another, when their pass is over.

    `at(tokens)` is told how far the pass is; `leave` may raise to end it.
    """
    corpus = corpus_of(text, sizes)
    sizes = replace(sizes, window=corpus.window)
    collectors = [Collector(w.live.sae.d_sae, corpus.n_windows, sizes) for w in watched]
    reader = Capture(model, [w.live.tap for w in watched])
    context = text.tokens.shape[1]
    per = max(1, BATCH_TOKENS // context)
    for start in range(0, len(text.tokens), per):
        leave("reading text")
        blocks = torch.from_numpy(text.tokens[start : start + per].astype(np.int64))
        reasons = text.reasons[start : start + per]
        for each, collector, acts in zip(watched, collectors, reader(blocks), strict=True):
            keep = counted(acts, reasons, each.live)
            acts = acts.to(each.live.reader.device)
            collector.add(keep, start * corpus.per_block, *fired(each.live.sae, acts, keep))
        at(min(start + per, len(text.tokens)) * context)
    for each, collector in zip(watched, collectors, strict=True):
        yield _finished(each, collector, model, leave)


def corpus_of(text: Text, sizes: Sizes) -> Corpus:
    """The text as dashboards count its windows."""
    return Corpus(text.tokens, min(sizes.window, text.tokens.shape[1]), text.name)


def counted(acts: Tensor, reasons: NDArray[np.uint8], live: Live) -> NDArray[np.bool_]:
    """bool [b, C]: the tokens that count, by the mask that the SAE was trained with."""
    norms = norms_of(acts.flatten(0, -2)).view(acts.shape[:-1])
    return masks.keep(marked(reasons, norms, live.limit), live.mask)


def fired(
    sae: SAE, acts: Tensor, keep: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """What is above zero in `acts [b, C, d_in]`, of tokens that count: tokens, features, values."""
    places = np.flatnonzero(keep)
    rows = acts.flatten(0, 1)[torch.from_numpy(places).to(acts.device)]
    tokens, features, values = [], [], []
    done = 0
    for part in torch.split(rows, max(1, ENTRIES // sae.d_sae)):
        latents = sae.encode(part).float()
        row, feature = (latents > 0).nonzero(as_tuple=True)
        tokens.append(places[row.cpu().numpy() + done])
        features.append(feature.cpu().numpy())
        values.append(latents[row, feature].cpu().numpy())
        done += len(part)
    if not tokens:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    return np.concatenate(tokens), np.concatenate(features), np.concatenate(values)


def room_for(features: int, d: int, sizes: Sizes) -> int:
    """Bytes that the pass holds for an SAE: its weights and what it collects."""
    examples = (sizes.top + sizes.sample) * (4 * sizes.window + 20)
    return features * (5 * examples // 2 + 4 * len(EDGES) + sizes.pool + 64 + 8 * d)


def room() -> float:
    """Bytes that a pass may hold: half of the memory that is free, where the system tells it."""
    try:
        return 0.5 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 2**32


def groups(watched: Sequence[Any], needs: Sequence[int], room: float) -> list[list[Any]]:
    """SAEs, in order, in groups that need no more than `room` together, at least one in each."""
    out: list[list[Any]] = []
    taken = math.inf
    for each, need in zip(watched, needs, strict=True):
        if taken + need > room:
            out.append([])
            taken = 0
        out[-1].append(each)
        taken += need
    return out


def _finished(
    each: Watched, found: Collector, model: PreTrainedModel, leave: Callable[[str], None]
) -> Dashboard:
    own, lacking = each.live.own, dict(each.lacking)
    logits = lens(
        each.live.sae, model, own["layer"], own.get("out_site") or own["site"], TOKENS_SHOWN, leave
    )
    if isinstance(logits, str):
        lacking["lens"] = logits
    sample, quantiles = found.sample()
    return Dashboard(
        name=each.name,
        facts=each.facts,
        tokens=found.tokens,
        fired=found.fired,
        total=found.total,
        largest=found.largest,
        windows=found.windows,
        histogram=found.histogram,
        edges=EDGES,
        top=found.top(),
        sample=sample,
        groups=quantiles,
        idle=found.idle(),
        up=None if isinstance(logits, str) else logits[0],
        down=None if isinstance(logits, str) else logits[1],
        near=neighbours(each.live.sae, NEIGHBOURS, leave),
        notes=each.notes,
        lacking=lacking,
    )
