"""What a dictionary makes of each text: its latents, pooled over the tokens that count.

A text is read as it would be inside a packed block, behind the token that ended the document
before it, so that none of its own tokens stands at a first position, which no SAE was trained on.
Texts of one length share a forward, without padding; all dictionaries share it too. Pooled
latents lie in files, because the latents of thousands of texts need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.lm import masks
from sae_cli.lm.encode import Encoder, special_ids
from sae_cli.lm.sources import RawDocument
from sae_cli.spec.studies import Pool
from sae_cli.studies.bench import Bench

Ids = NDArray[np.int64]
_ELEMENTS = 2**27
"""Features held at once."""
_TEXTS = 4096


@dataclass(frozen=True)
class Lens:
    """A way to look at activations."""

    width: int
    """How many features it has."""
    see: Callable[[Tensor], Tensor]
    """Features [n, width] of raw activations [n, d_in]."""


def read(bench: Bench, texts: Sequence[str], *, context: int, chat_template: bool) -> list[Ids]:
    """Token ids of each text, at most `context`, behind an end-of-text token; empty for no text."""
    encoder = Encoder(bench.tokenizer, chat_template=chat_template)
    found: list[Ids] = []
    for start in range(0, len(texts), _TEXTS):
        some = texts[start : start + _TEXTS]
        documents = [
            RawDocument(start + i, 0, text, None, f"text {start + i + 1}")
            for i, text in enumerate(some)
        ]
        for tokens in encoder.encode(documents):
            ids = tokens.ids.astype(np.int64)  # the last one is the end-of-text token
            found.append(np.roll(ids, 1)[: context + 1])
    return found


@dataclass(frozen=True)
class Pooled:
    """Features of texts, by the names of their lenses."""

    features: Mapping[str, NDArray[np.float32]]
    """float32 [n, width], in files."""
    counts: NDArray[np.int64]
    """[n]: tokens of each text that count. Features of a text without any are zeros."""


def pooled(
    bench: Bench, texts: Sequence[Ids], lenses: Mapping[str, Lens], how: Pool, folder: Path
) -> Pooled:
    """Every lens' features of each of `texts`, none of them empty, pooled; files go to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    special = special_ids(bench.tokenizer)
    counts = np.zeros(len(texts), np.int64)
    features: dict[str, NDArray[np.float32]] = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", np.float32, (len(texts), lens.width)
        )
        for name, lens in lenses.items()
    }
    for batch in batches([len(ids) for ids in texts], bench.batch_tokens):
        bench.leave("probing")
        tokens = np.stack([texts[i] for i in batch])
        reasons = np.isin(tokens, special).astype(np.uint8) * np.uint8(masks.SPECIAL)
        reasons[:, : bench.mask.first_positions] |= np.uint8(masks.FIRST)
        acts = bench.acts(torch.from_numpy(tokens))
        keep = bench.keep(acts, reasons).clone()
        keep[:, 0] = False  # the token in front is none of the text's, whatever the mask says
        counts[batch] = keep.sum(1).cpu().numpy()
        for name, lens in lenses.items():
            features[name][batch] = _pool(acts, keep, lens, how).cpu().numpy()
    return Pooled(features, counts)


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Texts by their numbers: each batch is of one length, and of `batch_tokens` at most unless a
    text alone has more."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    made: list[list[int]] = []
    for i in order:
        last = made[-1] if made else []
        if last and lengths[last[0]] == lengths[i] and (len(last) + 1) * lengths[i] <= batch_tokens:
            last.append(i)
        else:
            made.append([i])
    return made


def _pool(acts: Tensor, keep: Tensor, lens: Lens, how: Pool) -> Tensor:
    """float32 [b, width] of `acts` [b, C, d_in] and `keep` [b, C]."""
    per = max(1, _ELEMENTS // (lens.width * acts.shape[1]))
    parts = []
    for start in range(0, len(acts), per):
        some, counted = acts[start : start + per], keep[start : start + per]
        if counted.any():
            parts.append(pool_tokens(lens.see(some[counted]).float(), counted, how))
        else:
            parts.append(torch.zeros(len(some), lens.width, device=acts.device))
    return torch.cat(parts)


def pool_tokens(f: Tensor, keep: Tensor, how: Pool) -> Tensor:
    """[b, m] of the features `f` [n, m] of the n tokens that `keep` [b, C] lets count, in order;
    zeros where a text has none."""
    text = keep.nonzero()[:, 0]
    if how == "mean":
        member = (text == torch.arange(len(keep), device=f.device)[:, None]).float()
        return (member @ f) / member.sum(1, keepdim=True).clamp(min=1)
    out = f.new_zeros(len(keep), f.shape[1])
    if how == "last":
        some = keep.any(1)
        out[some] = f[keep.sum(1).cumsum(0)[some] - 1]
        return out
    return out.scatter_reduce(0, text[:, None].expand_as(f), f, "amax", include_self=False)
