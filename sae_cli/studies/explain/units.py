"""The latents of one dictionary that are studied: drawn, explained, and given their examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sae_cli.spec.studies import ExplanationsStudy
from sae_cli.studies.explain.arrays import Acts, Ints
from sae_cli.studies.explain.contexts import Contexts
from sae_cli.studies.explain.gather import Gathered
from sae_cli.studies.explain.ngrams import Pattern, learn
from sae_cli.studies.explain.protocol import FEWEST, Examples, examples
from sae_cli.studies.explain.scoring import Verdict, always, apply, pearson
from sae_cli.studies.explain.text import Text

SPARE = 4
"""Candidates are so many times the latents that are wanted, since some may be dead."""


def candidates(d_sae: int, spec: ExplanationsStudy) -> Ints:
    """Latents that may be drawn, in a random order that depends on their number and the seed."""
    order = np.random.default_rng([spec.seed, d_sae]).permutation(d_sae)
    return order[: SPARE * spec.latents].astype(np.int64)


def drawn(train: Gathered, spec: ExplanationsStudy) -> Ints:
    """Where in `train.latents` those are that are studied: the first that fire in at least FEWEST
    windows. So each that does is as likely to be drawn as any other."""
    return np.flatnonzero(train.windows.fired >= FEWEST)[: spec.latents]


@dataclass(frozen=True)
class Side:
    """A split as patterns see it."""

    text: Text
    nodes: Ints
    """The contexts of its tokens that count."""

    @classmethod
    def of(cls, text: Text, contexts: Contexts) -> Side:
        return cls(text, contexts.of(text.kept_suffixes()))


@dataclass
class Unit:
    """A latent, and what is found of it."""

    latent: int
    density: float
    """Share of training tokens on which it fires."""
    shown: tuple[Ints, Acts]
    """Training windows in which it fires, in a random order, and its activations there."""
    examples: Examples | str
    """Held-out ones; or why there are none."""
    explanation: str = ""
    cutoff: float = 0.0
    verdict: Verdict | None = None
    permuted: Verdict | None = None
    """Of the explanation of the latent before it, on its own examples."""
    always: Verdict | None = None
    pearson: float | None = None
    judged: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As plain data."""
        why = self.examples if isinstance(self.examples, str) else None
        found = {"detection": None, "fuzzing": None} if not self.verdict else self.verdict.scores()
        return {
            "latent": self.latent,
            "density": self.density,
            "explanation": self.explanation,
            "cutoff": self.cutoff,
            "windows": 0 if isinstance(self.examples, str) else len(self.examples.numbers),
            "bins": [] if isinstance(self.examples, str) else self.examples.bins,
            **found,
            "pearson": self.pearson,
            "reason": why,
            **({"judge": self.judged} if self.judged else {}),
        }


class Study:
    """Patterns are made one at a time, applied, and dropped."""

    def __init__(self, spec: ExplanationsStudy, contexts: Contexts, heldout: Side) -> None:
        self._spec, self._contexts, self._heldout = spec, contexts, heldout

    def units(self, train: Gathered, heldout: Gathered, told: Any = None) -> list[Unit]:
        """The latents of `heldout`, which are some of `train`'s; `told(pattern)` gives words."""
        where = {int(each): at for at, each in enumerate(train.latents)}
        tokens = max(1.0, float(self._contexts.all_times[0]))
        out: list[Unit] = []
        for j, latent in enumerate(map(int, heldout.latents)):
            fired = train.counts.of(where[latent])
            found = examples(
                self._heldout.text, heldout.windows, j,
                self._spec.examples, self._spec.bins, self._spec.seed,
            )  # fmt: skip
            shown = train.windows.with_it(where[latent])
            out.append(Unit(latent, float(fired.times.sum()) / tokens, shown, found))
        for j, unit in enumerate(out):
            pattern = learn(self._contexts, train.counts.of(where[unit.latent]))
            unit.explanation = "" if told is None else told(pattern)
            unit.cutoff = pattern.cutoff
            unit.pearson = pearson(
                pattern.strength, self._contexts, self._heldout.nodes,
                heldout.counts.of(j), float(heldout.counts.squares[j]),
            )  # fmt: skip
            unit.verdict = self._apply(pattern, unit)
            if not isinstance(unit.examples, str):
                unit.always = always(unit.examples)
            if len(out) > 1:
                other = out[(j + 1) % len(out)]
                other.permuted = self._apply(pattern, other)
        return out

    def _apply(self, pattern: Pattern, unit: Unit) -> Verdict | None:
        if isinstance(unit.examples, str):
            return None
        return apply(pattern, self._contexts, self._heldout.text, unit.examples)
