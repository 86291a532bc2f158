"""The scores of a pattern on held-out text: what it says of each window, and of each token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sae_cli.studies.explain.arrays import Flags, Floats, Ints
from sae_cli.studies.explain.contexts import Contexts
from sae_cli.studies.explain.counts import Fired
from sae_cli.studies.explain.ngrams import Pattern
from sae_cli.studies.explain.protocol import FEWEST, Examples, Tally
from sae_cli.studies.explain.text import Text

PROTOCOLS = ("detection", "fuzzing")


@dataclass(frozen=True)
class Verdict:
    """What came of one explanation and one latent's examples."""

    detection: Tally | None
    fuzzing: Tally | None
    """None where too few windows have a token to mark wrongly."""

    def scores(self) -> dict[str, dict[str, float | None] | None]:
        """By protocol and name."""
        found = {name: getattr(self, name) for name in PROTOCOLS}
        return {name: None if each is None else each.scores() for name, each in found.items()}


def tally(said: Flags, true: Flags) -> Tally | None:
    """Answers counted, if there are FEWEST of each kind."""
    enough = min(true.sum(), (~true).sum()) >= FEWEST
    return Tally.of(said, true) if enough else None


def apply(pattern: Pattern, contexts: Contexts, text: Text, examples: Examples) -> Verdict:
    """Does the pattern fire on a token of the window? On at least half of the marked ones?"""

    def fires(numbers: Ints) -> Flags:
        _, keep, suffixes = text.windows(numbers)
        on: Flags = pattern.fires[contexts.of(suffixes.ravel())].reshape(keep.shape) & keep
        return on

    marked: Ints = np.sum(fires(examples.shown) & examples.marks, axis=1)
    half: Flags = 2 * marked >= np.sum(examples.marks, axis=1)
    return Verdict(
        tally(np.any(fires(examples.numbers), axis=1), examples.fires),
        tally(half, examples.right),
    )


def always(examples: Examples) -> Verdict:
    """The verdict of one who says yes to all, which half of the examples bear out."""
    return Verdict(
        tally(np.ones_like(examples.fires), examples.fires),
        tally(np.ones_like(examples.right), examples.right),
    )


def pearson(
    strength: Floats, contexts: Contexts, nodes: Ints, fired: Fired, squares: float
) -> float | None:
    """Pearson's r of expected and true activation over the tokens that count, of which `nodes [n]`
    are the contexts; None where one of them does not vary.

    `fired` and `squares`, the sum of squared activations, are of the same tokens.
    """
    n, said = len(nodes), strength[nodes]
    product = float((strength[contexts.of(fired.suffixes)] * fired.total).sum())
    true = float(fired.total.sum())
    spread = n * float((said**2).sum()) - float(said.sum()) ** 2
    varies = n * squares - true**2
    if spread <= 1e-12 * n * float((said**2).sum()) or varies <= 0:
        return None
    return (n * product - float(said.sum()) * true) / math.sqrt(spread * varies)
