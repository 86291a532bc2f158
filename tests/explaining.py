"""A world of words whose latents are known, which fire on which words, for tests of explanations.

Activations of a token are its own id, those of the two tokens before it, and a number that is as
good as random; a latent is a rule over these. Held-out documents follow the training ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_cli.spec.studies import ExplanationsStudy
from sae_cli.studies.explain.contexts import Contexts
from sae_cli.studies.explain.gather import Gathered, Wanted
from sae_cli.studies.explain.text import Text
from sae_cli.studies.explain.units import Side, Study, Unit
from sae_cli.studies.explain.words import spelling, told

VOCABULARY, CONTEXT, WINDOW = 40, 64, 16
FIRST = 10
"""The id of the word w0."""
Rule = Callable[[Tensor], Tensor]
RULES: dict[str, Rule] = {
    "on w3": lambda x: 2.0 * (x[:, 0] == FIRST + 3),
    "on w5 after w4": lambda x: 1.5 * ((x[:, 0] == FIRST + 5) & (x[:, 1] == FIRST + 4)),
    "on w8 after w6 w7": lambda x: (
        1.0 * ((x[:, 0] == FIRST + 8) & (x[:, 1] == FIRST + 7) & (x[:, 2] == FIRST + 6))
    ),
    "at random": lambda x: x[:, 3] * (x[:, 3] > 0.98),
    "on w9 or w20, by its letter": lambda x: (
        0.5 * (x[:, 0] == FIRST + 9) + 3.0 * (x[:, 0] == FIRST + 20)
    ),
    "never": lambda x: torch.zeros(len(x)),
    "always": lambda x: torch.ones(len(x)),
}


class Rules:
    """A dictionary of rules."""

    def __init__(self, names: list[str]) -> None:
        self.rules = [RULES[name] for name in names]
        self.d_sae = len(names)

    def encode(self, x: Tensor) -> Tensor:
        return torch.stack([rule(x).float() for rule in self.rules], 1)


@dataclass
class World:
    """Both splits, and what the latents did there."""

    spec: ExplanationsStudy
    train_text: Text
    heldout_text: Text
    train: Gathered
    heldout: Gathered
    acts: np.ndarray
    """[kept held-out tokens, latents], all of them, for reference."""

    @property
    def contexts(self) -> Contexts:
        return Contexts(self.train_text.kept_suffixes(), self.train_text.base, self.spec.order)

    def units(self, tokenizer: object) -> list[Unit]:
        contexts, spell = self.contexts, spelling(tokenizer)
        study = Study(self.spec, contexts, Side.of(self.heldout_text, contexts))
        return study.units(self.train, self.heldout, lambda p: told(contexts, p, spell))


def world(*names: str, per: int = 16, seed: int = 0, **settings: int) -> World:
    """Of the latents `names`; blocks come `per` at a time."""
    spec = ExplanationsStudy(window=WINDOW, **settings)  # type: ignore[arg-type]
    dice = np.random.default_rng(seed)
    latents, rules = np.arange(len(names)), Rules(list(names))
    made, first = [], 0
    for blocks in (400, 200):
        tokens = dice.integers(FIRST, FIRST + VOCABULARY, (blocks, CONTEXT)).astype(np.int32)
        for start, run in (
            (20, (4, 5)),
            (40, (6, 7, 8)),
            (50, (9, 7, 8)),
        ):  # often enough to be learnt
            chosen = dice.random(blocks) < 0.4
            for i, word in enumerate(run):
                tokens[chosen, start + i] = FIRST + word
        before = [np.pad(tokens, ((0, 0), (n, 0)))[:, :CONTEXT] for n in (1, 2)]
        acts = np.stack([tokens, *before, dice.random(tokens.shape)], -1).astype(np.float32)
        keep = dice.random(tokens.shape) < 0.95
        documents = first + np.arange(blocks)[:, None] // 2 + np.zeros((1, CONTEXT), dtype=np.int64)
        first = int(documents.max()) + 1
        text = Text(WINDOW, FIRST + VOCABULARY + 1, spec.order)
        found = Gathered(Wanted(rules, latents), WINDOW, spec.seed)
        for at in range(0, blocks, per):
            some = slice(at, at + per)
            text.add(tokens[some], keep[some], documents[some])
            found.add(
                torch.from_numpy(acts[some]), torch.from_numpy(keep[some]), text,
                text.suffixes(tokens[some]),
            )  # fmt: skip
        text.close()
        made.append((text, found))
    (train_text, train), (heldout_text, heldout) = made
    reference = rules.encode(torch.from_numpy(acts[keep])).numpy()
    return World(spec, train_text, heldout_text, train, heldout, reference)
