"""Pairs of indirect-object prompts with the names exchanged, and what patches between them move.

"when anna and ben went to the park , anna gave a ring to" has the answer ben; with the two names
exchanged everywhere it is anna. A pair has the same length and structure and differs in its names
alone. What counts is the logit difference D = logit(answer) - logit(other name) at the last token,
the answer being that of the unchanged prompt: patching from the exchanged prompt lowers it. Logits
are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.lm.device import input_device
from sae_cli.lm.restart import Clean, Forwards, spot
from sae_cli.lm.splice import editing
from sae_cli.lm.tiny import grammar
from sae_cli.studies.bench import Bench

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt, of the same with its names exchanged, and of both names."""

    base: tuple[int, ...]
    exchanged: tuple[int, ...]
    answer: int
    other: int


def pairs(tokenizer: Any, n: int, seed: int, without: Sequence[Pair] = ()) -> list[Pair]:
    """n different ones, none with a prompt of `without`."""
    taken = {ids for pair in without for ids in (pair.base, pair.exchanged)}
    found: list[Pair] = []
    count = n
    while len(found) < n:
        count *= 2
        found = []
        used = set(taken)
        for prompt in grammar.ioi_prompts(count, seed):
            pair = _pair(tokenizer, prompt)
            if pair.base not in used and len(found) < n:
                used |= {pair.base, pair.exchanged}
                found.append(pair)
    return found


def _pair(tokenizer: Any, prompt: grammar.IOIPrompt) -> Pair:
    turned = {prompt.correct: prompt.wrong, prompt.wrong: prompt.correct}
    words = prompt.prompt.split(" ")
    ids = [
        tuple(tokenizer.convert_tokens_to_ids(each))
        for each in (words, [turned.get(word, word) for word in words])
    ]
    names = tokenizer.convert_tokens_to_ids([prompt.correct, prompt.wrong])
    return Pair(ids[0], ids[1], *names)


@dataclass(frozen=True)
class Group:
    """Pairs of one length, and their forwards."""

    at: NDArray[np.int64]
    """[b]: their numbers."""
    clean: Clean
    """Of the unchanged prompts."""
    acts: Tensor
    """[b, p, d]: what the site holds at the positions that are patched, unchanged."""
    change: Tensor
    """float32 `[b, p, d]`: what it holds of the exchanged prompts, less the above."""
    names: Tensor
    """int64 `[b, 2]`: the answer, the other name."""


class Patching:
    """Some pairs, at the site of a bench."""

    def __init__(self, bench: Bench, forwards: Forwards, some: Sequence[Pair], last: bool) -> None:
        """`last`: patch at the last token alone, not at all."""
        self._bench, self._forwards = bench, forwards
        self._from = slice(-1, None) if last else slice(None)
        self.count = len(some)
        self.groups = list(self._made(some))
        self.clean = self._collected([self._difference(g.clean.logits, g) for g in self.groups])
        """float64 [pairs]: D of the unchanged prompts."""

    def _made(self, some: Sequence[Pair]) -> Iterator[Group]:
        by_length: dict[int, list[int]] = {}
        for number, pair in enumerate(some):
            by_length.setdefault(len(pair.base), []).append(number)
        for length, numbers in sorted(by_length.items()):
            per = max(1, self._bench.batch_tokens // length)
            for start in range(0, len(numbers), per):
                yield self._group(some, numbers[start : start + per])

    def _group(self, some: Sequence[Pair], numbers: list[int]) -> Group:
        device, tap = self._bench.device, self._bench.tap
        base = torch.tensor([some[i].base for i in numbers])
        clean = self._forwards.clean(base, [tap], [tap])
        acts = clean.acts[spot(tap)].to(device)[:, self._from].clone()
        theirs = self._bench.acts(torch.tensor([some[i].exchanged for i in numbers]))
        change = theirs[:, self._from].float() - acts.float()
        names = torch.tensor([(some[i].answer, some[i].other) for i in numbers])
        return Group(np.array(numbers), clean, acts, change, names)

    def patched(self, changes: Sequence[Tensor]) -> Floats:
        """float64 [pairs]: D with `changes`, float32 `[b, p, d]` of each group, added."""
        found = []
        for group, change in zip(self.groups, changes, strict=True):

            def edit(x: Tensor, change: Tensor = change) -> Tensor:
                new = x.float().clone()
                new[:, self._from] += change.to(x.device)
                return new

            logits = self._forwards.edited(group.clean, self._bench.tap, edit)
            found.append(self._difference(logits, group))
        self._bench.leave("its start: a study begins again")
        return self._collected(found)

    def gradients(self) -> list[Tensor]:
        """float32 `[b, p, d]` of each group: dD / dx at the positions, mean of those at both ends
        of the patch (the trapezoid rule for the effect of going from one to the other)."""
        return [
            (self._gradient(group, 0.0) + self._gradient(group, 1.0)) / 2 for group in self.groups
        ]

    def _gradient(self, group: Group, share: float) -> Tensor:
        bench = self._bench
        leaf = (group.acts.float() + share * group.change).requires_grad_()

        def edit(x: Tensor) -> Tensor:
            return torch.cat([x[:, : x.shape[1] - leaf.shape[1]].float(), leaf.to(x.device)], 1)

        with torch.enable_grad(), editing(bench.model, bench.tap, edit):
            ids = group.clean.blocks.to(input_device(bench.model))
            logits = bench.model(input_ids=ids, use_cache=False).logits
            (found,) = torch.autograd.grad(self._difference(logits.float(), group).sum(), leaf)
        return found

    @staticmethod
    def _difference(logits: Tensor, group: Group) -> Tensor:
        two = logits[:, -1].gather(1, group.names.to(logits.device))
        return two[:, 0] - two[:, 1]

    def _collected(self, found: Sequence[Tensor]) -> Floats:
        out = np.zeros(self.count)
        for group, some in zip(self.groups, found, strict=True):
            out[group.at] = some.double().cpu().numpy()
        return out
