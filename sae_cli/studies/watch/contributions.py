"""What the features of one token do to the logit of a next token: exact, and by gradient.

    contribution_v1 of feature i = logit(clean) - logit(x - f_i W_dec_i at the position)
    gradient_v1     of feature i = f_i (W_dec_i . dlogit / dx)

x is what the SAE's decoder writes to (the site that it reads, or the one that a transcoder
predicts), and f_i the feature's value there. The feature alone is set to zero: all that the SAE
does not explain, its error, stays, and so do all other features and positions. Both are in logits,
float32 of forwards in the model's dtype. Contributions of several features need not add up: what
lies behind is not linear. The clean logit stands in the same batch as the edited ones, so that a
difference is the edit's and no other rounding's.

The model's number format limits what a difference of two logits can show: `resolution` is the step
between neighbouring logits of this size (0.125 at 20 in bfloat16).

The gradient only chooses which features are set to zero, the CANDIDATES with the largest: of more
active ones the rest is not looked at, and the result says how many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_cli.lm.device import input_device
from sae_cli.lm.restart import Forwards
from sae_cli.lm.splice import editing
from sae_cli.studies.watch.live import Live, Reading

CANDIDATES = 64
"""Features of the position whose contribution is made, at most."""
LOGITS = 2**27
"""Numbers that the logits of a batch may hold."""


@dataclass(frozen=True)
class Contribution:
    """What one feature does."""

    feature: int
    activation: float
    """f_i, raw activation units."""
    contribution: float
    """contribution_v1, in logits: above zero where the feature speaks for the token."""
    gradient: float
    """gradient_v1, in logits."""


@dataclass(frozen=True)
class Contributions:
    """Of the features of one position to one next token, the largest first."""

    target: int
    """Id of the next token."""
    logit: float
    """Its clean logit."""
    resolution: float
    """The step between neighbouring numbers of this size in the model's format."""
    active: int
    """Features that are active at the position."""
    found: tuple[Contribution, ...]
    """Of the candidates, by size."""


def contributions(
    live: Live, forwards: Forwards, reading: Reading, position: int, target: int
) -> Contributions:
    """Of the features at `position` (of `reading.ids`, the token in front counted) to the logit of
    token `target` behind it. Where no feature is active there, none is found."""
    latents = reading.latents[position]
    active = latents.nonzero()[:, 0]
    if not len(active):
        logit = float(forwards.clean(reading.ids, [], []).logits[0, position, target])
        return Contributions(target, logit, _step(live, logit), 0, ())
    towards = gradient(live, reading.ids, position, target)
    first = (latents[active] * (live.sae.W_dec[active] @ towards)).double()
    order = first.abs().argsort(descending=True, stable=True)[:CANDIDATES]
    chosen, first = active[order], first[order]
    values = latents[chosen]
    writes = values[:, None] * live.sae.W_dec[chosen]
    clean, without = _set_to_zero(live, forwards, reading.ids, writes, position, target)
    found = [
        Contribution(*each)
        for each in zip(
            chosen.tolist(),
            values.double().tolist(),
            (clean - without).double().tolist(),
            first.tolist(),
            strict=True,
        )
    ]
    found.sort(key=lambda each: (-abs(each.contribution), each.feature))
    logit = float(clean[0])
    return Contributions(target, logit, _step(live, logit), len(active), tuple(found))


def _step(live: Live, logit: float) -> float:
    info = torch.finfo(live.reader.model.dtype)
    return float(info.eps * 2.0 ** math.floor(math.log2(max(abs(logit), info.tiny))))


def gradient(live: Live, ids: Tensor, position: int, target: int) -> Tensor:
    """float32 `[d_out]`: how the logit of `target` at `position` moves with what the SAE writes
    to, there, in the clean forward of `ids` `[1, T]`."""
    model, found = live.reader.model, list[Tensor]()

    def edit(x: Tensor) -> Tensor:
        here = x[:, position].detach().float().requires_grad_()
        found.append(here)
        new = x.detach().float().clone()
        new[:, position] = here
        return new

    with torch.enable_grad(), editing(model, live.written, edit):
        logits = model(input_ids=ids.to(input_device(model)), use_cache=False).logits
        (towards,) = torch.autograd.grad(logits[0, position, target].float(), found)
    return towards[0].to(live.reader.device)


def _set_to_zero(
    live: Live, forwards: Forwards, ids: Tensor, writes: Tensor, position: int, target: int
) -> tuple[Tensor, Tensor]:
    """The clean logit and that without each of `writes` `[n, d_out]`, float32 `[n]` both, from
    forwards of as many as fit, the first row of each batch unchanged."""
    vocabulary = live.reader.model.get_output_embeddings().weight.shape[0]
    per = min(len(writes), max(1, LOGITS // (ids.shape[1] * vocabulary) - 1))
    clean, without = [], []
    for some in torch.split(writes, per):
        batch = forwards.clean(ids.expand(len(some) + 1, -1), [], [live.written])

        def edit(x: Tensor, some: Tensor = some) -> Tensor:
            new = x.float().clone()
            new[1:, position] -= some.to(x.device)
            return new

        logits = forwards.edited(batch, live.written, edit)[:, position, target]
        clean.append(logits[:1].expand(len(some)))
        without.append(logits[1:])
    return torch.cat(clean), torch.cat(without)
