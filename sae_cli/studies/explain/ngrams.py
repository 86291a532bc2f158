"""The deterministic explainer: whether a latent fires, told from the token and those before it.

Of a context c with n tokens of training text, in k of which the latent fires, and its parent's p,

    p(c) = (k + p(parent)) / (n + 1),  p(root) = share of all tokens on which it fires,

n and k over all tokens with that suffix: a backoff that trusts what was seen often. What has a
suffix but none of the longer ones that are known is told from such tokens alone, in the same way,
with the suffix for a parent. How strongly it fires is told by the same sums of activations. It is
said to fire where p is at least a cutoff, the one with the largest F1 over tokens of the training
text. Nothing else is looked at, so a latent of meanings, that no few tokens tell, is
undercredited: this is no language model's opinion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sae_cli.studies.explain.arrays import Flags, Floats
from sae_cli.studies.explain.contexts import Contexts
from sae_cli.studies.explain.counts import Fired


@dataclass(frozen=True)
class Pattern:
    """What one latent does in each context, all [nodes]."""

    chance: Floats
    """That it fires."""
    strength: Floats
    """Its expected activation."""
    hits: Floats
    """Training tokens with this context on which it fired."""
    cutoff: float

    @property
    def fires(self) -> Flags:
        """Where it is said to fire."""
        on: Flags = self.chance >= self.cutoff
        return on


def learn(contexts: Contexts, fired: Fired) -> Pattern:
    """The pattern of a latent that has fired in the text that `contexts` are of."""
    nodes = contexts.of(fired.suffixes)
    hits = contexts.sums(nodes, fired.times)
    chance = _backed_off(contexts, hits)
    strength = _backed_off(contexts, contexts.sums(nodes, fired.total))
    return Pattern(chance, strength, hits, cutoff(chance, contexts.times, hits))


def cutoff(chance: Floats, times: Floats, hits: Floats) -> float:
    """The chance from which on saying that it fires has the largest F1 over `times` tokens with
    `hits`; of equal ones the highest."""
    order = np.argsort(-chance, kind="stable")
    order = order[times[order] > 0]
    sorted_ = chance[order]
    true, said = np.cumsum(hits[order]), np.cumsum(times[order])
    f1 = 2 * true / (said + hits.sum())
    last = np.append(sorted_[1:] != sorted_[:-1], True)  # equal chances go together
    return float(sorted_[np.argmax(np.where(last, f1, -1.0))])


def _backed_off(contexts: Contexts, values: Floats) -> Floats:
    total = contexts.upward(values)
    smooth = np.zeros(len(contexts))
    smooth[0] = total[0] / max(1.0, contexts.all_times[0])
    for level in contexts.levels[1:]:
        above = smooth[contexts.parents[level]]
        smooth[level] = (total[level] + above) / (contexts.all_times[level] + 1)
    own = (values + smooth) / (contexts.times + 1)
    own[0] = smooth[0]  # a token that training text has not
    return np.where(contexts.times == contexts.all_times, smooth, own)
