"""What the site holds of each prompt, at the places where features are read.

Those are the last token of the prompt, each token of the template behind the instruction
(`template-2` is the second to last of all), and the mean and the maximum over the instruction's
tokens. Before the last one, a token that the SAEs' mask leaves out is not read, nor is the first
position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_cli.lm import masks
from sae_cli.lm.encode import special_ids
from sae_cli.sae.base import SAE
from sae_cli.studies.bench import Bench
from sae_cli.studies.features import CELLS
from sae_cli.studies.steer.chat import Asked, by_length, template_tokens

LAST, MEAN, MAX = "last", "mean", "max"


@dataclass(frozen=True)
class Read:
    """Activations of some prompts."""

    last: Tensor
    """[n, d]: at the last token of each prompt."""
    template: dict[str, Tensor]
    """[n, d] at the tokens of the template before that, where the mask lets them count."""
    inside: Tensor
    """[tokens, d]: of all instructions, the tokens that count."""
    owner: Tensor
    """int64 [tokens]: the prompt of each."""

    @property
    def count(self) -> int:
        """How many prompts there are."""
        return len(self.last)

    @property
    def places(self) -> list[str]:
        """Where features can be read, `last` first."""
        return [LAST, *self.template, MEAN, MAX]

    def features(self, sae: SAE, place: str) -> Tensor:
        """float32 [n, d_sae]: an SAE's latents at one of the `places`."""
        if place == LAST:
            return encoded(sae, self.last)
        if place in self.template:
            return encoded(sae, self.template[place])
        total = torch.zeros(self.count, sae.d_sae, device=self.last.device)
        counts = torch.bincount(self.owner, minlength=self.count).clamp(min=1)
        step = max(1, CELLS // sae.d_sae)
        for start in range(0, len(self.inside), step):
            f = sae.encode(self.inside[start : start + step]).float()
            who = self.owner[start : start + step]
            if place == MEAN:
                total.index_add_(0, who, f)
            else:
                total.scatter_reduce_(0, who[:, None].expand_as(f), f, "amax")
        return total / counts[:, None] if place == MEAN else total


def encoded(sae: SAE, x: Tensor) -> Tensor:
    """float32 [n, d_sae] of x [n, d], some at a time."""
    step = max(1, CELLS // sae.d_sae)
    return torch.cat([sae.encode(x[i : i + step]).float() for i in range(0, len(x), step)])


def read(bench: Bench, asked: Sequence[Asked]) -> Read:
    """One forward of each prompt; those of one length share one."""
    after = template_tokens(asked)
    special = special_ids(bench.tokenizer)
    dim = bench.tap.dim
    ends = torch.zeros(len(asked), after, dim, device=bench.device)
    counted = torch.ones(after, dtype=torch.bool)
    inside: list[Tensor] = []
    owner: list[int] = []
    for length, numbers in by_length(asked).items():
        per = max(1, bench.batch_tokens // length)
        for start in range(0, len(numbers), per):
            some = numbers[start : start + per]
            ids = torch.tensor([asked[i].ids for i in some])
            acts = bench.acts(ids).float()
            reasons = np.isin(ids.numpy(), special).astype(np.uint8) * np.uint8(masks.SPECIAL)
            reasons[:, :1] |= np.uint8(masks.FIRST)
            keep = bench.keep(acts, reasons).cpu()
            keep[:, 0] = False
            ends[some] = acts[:, length - after :]
            counted &= keep[:, length - after :].all(0)
            for row, number in enumerate(some):
                at = torch.zeros(length, dtype=torch.bool)
                at[asked[number].start : asked[number].stop] = True
                found = acts[row][(at & keep[row]).to(acts.device)]
                inside.append(found)
                owner += [number] * len(found)
    template = {f"template-{after - i}": ends[:, i] for i in range(after - 1) if bool(counted[i])}
    rows = torch.tensor(owner, dtype=torch.int64, device=bench.device)
    return Read(ends[:, -1], template, torch.cat(inside), rows)
