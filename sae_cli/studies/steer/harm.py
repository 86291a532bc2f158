"""What a push does to plain text: KL and cross-entropy, on held-out tokens.

The edit is made at every token that counts, whatever part of a prompt it is meant for: text has no
last prompt token. Predictions from those tokens are compared with the clean ones, in float64 sums:

    KL   mean of sum p clean (log p clean - log p pushed)
    dCE  mean of log p clean - log p pushed of the next token
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.lm.splice import Edit, forward_logits, masked
from sae_cli.studies import resample
from sae_cli.studies.bench import Bench, Seen
from sae_cli.studies.features import CELLS
from sae_cli.studies.kept import LAST_ANSWER, Answer, Kept
from sae_cli.studies.steer.edits import Push

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Harm:
    """Of one push, by units of whole documents (`resample.units_of`)."""

    kl: Floats
    """Sum over the predictions of each unit, nats."""
    ce: Floats
    """Likewise: rise of the cross-entropy."""
    n: Floats
    """How many predictions each has."""


def harm(bench: Bench, kept: Kept, pushes: Sequence[Push], tokens: int) -> list[Harm]:
    """What each of `pushes` does to the first held-out `tokens`."""
    sums: list[tuple[Floats, Floats]] = []
    documents: list[NDArray[np.int64]] = []
    for seen in bench.text("heldout", tokens):
        counted = seen.keep.clone()
        counted[:, -1] = False  # nothing follows that could be predicted
        told = counted[:, :-1].cpu()
        documents.append(seen.documents[:, :-1][told.numpy()])
        asks = ["harm", seen.tokens.tolist(), told.tolist(), [push.told for push in pushes]]
        found = kept.get(asks, partial(_asked, bench, pushes, seen, told))
        sums.append((found["kl"], found["ce"]))
        bench.leave(LAST_ANSWER)
    units, count = resample.units_of(np.concatenate(documents))
    n = np.bincount(units, minlength=count).astype(np.float64)
    kl, ce = (np.concatenate(each, axis=1) for each in zip(*sums, strict=True))

    def summed(found: Floats) -> Floats:
        return np.bincount(units, found, count).astype(np.float64)

    return [Harm(summed(k), summed(c), n) for k, c in zip(kl, ce, strict=True)]


def _asked(bench: Bench, pushes: Sequence[Push], seen: Seen, told: Tensor) -> Answer:
    """`kl` and `ce`, float64 [pushes, n], of the n predictions `told` [b, C - 1]."""
    clean = forward_logits(bench.model, seen.tokens)[:, :-1]
    base = clean[told.to(clean.device)]
    follows = seen.tokens[:, 1:].to(clean.device)[told.to(clean.device)][:, None]
    kl, ce = [], []
    for push in pushes:
        edit = masked(_everywhere(push), seen.keep)
        logits = forward_logits(bench.model, seen.tokens, tap=bench.tap, edit=edit)[:, :-1]
        both = _between(base, logits[told.to(logits.device)], follows)
        kl.append(both[0].numpy())
        ce.append(both[1].numpy())
    return {"kl": np.stack(kl), "ce": np.stack(ce)}


def _between(clean: Tensor, pushed: Tensor, follows: Tensor) -> tuple[Tensor, Tensor]:
    """KL and rise of the cross-entropy, float64 [n], of logits [n, V] and the tokens that follow,
    [n, 1]; some predictions at a time, for a vocabulary may be large."""
    step = max(1, CELLS // clean.shape[-1])
    kl, rise = [], []
    for start in range(0, len(clean), step):
        some = slice(start, start + step)
        base, new = (each[some].double().log_softmax(-1) for each in (clean, pushed))
        kl.append((base.exp() * (base - new)).sum(-1).cpu())
        rise.append((base - new).gather(1, follows[some])[:, 0].cpu())
    nothing = torch.zeros(0, dtype=torch.float64)
    return torch.cat([nothing, *kl]), torch.cat([nothing, *rise])


def _everywhere(push: Push) -> Edit:
    def edit(x: Tensor) -> Tensor:
        flat = x.flatten(0, 1).float()
        return (flat + push.change(flat)).view_as(x)

    return edit
