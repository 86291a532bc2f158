"""What is known of an SAE's features, as plain arrays: what a pass over text gathers, and what a
site or an export is written from.

The two know nothing of each other; this page is all that they share. Numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NONE = -1
"""In arrays of window or feature numbers: nothing there."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """The text that features were watched on."""

    tokens: NDArray[np.int32]
    """[n, C]: blocks of token ids."""
    window: int
    """Tokens of a window. A block's windows begin at its first token and don't overlap; its last
    one may be shorter. They are counted through: block b has those from b * per_block on."""
    name: str
    """What it is, for people."""

    @property
    def per_block(self) -> int:
        """Windows of a block."""
        return -(-int(self.tokens.shape[1]) // self.window)

    @property
    def n_windows(self) -> int:
        """All of them."""
        return len(self.tokens) * self.per_block

    def ids(self, number: int) -> NDArray[np.int32]:
        """int32 [at most `window`]: the tokens of a window."""
        block, start = divmod(number, self.per_block)
        first = start * self.window
        return self.tokens[block, first : first + self.window]


@dataclass(frozen=True, eq=False)
class Examples:
    """Windows in which features fire, k of each at most."""

    number: NDArray[np.int64]
    """[features, k]: which windows, NONE behind the last."""
    values: NDArray[np.float32]
    """[features, k, window]: activations of their tokens; zero where one does not count."""

    @property
    def peak(self) -> NDArray[np.float32]:
        """[features, k]: the largest activation of each."""
        found: NDArray[np.float32] = self.values.max(2, initial=0.0)
        return found


@dataclass(frozen=True, eq=False)
class Ranked:
    """For each feature the first few of something (tokens, other features), best first."""

    ids: NDArray[np.int32]
    """[features, n]"""
    values: NDArray[np.float32]
    """[features, n]"""


@dataclass(frozen=True, eq=False)
class Dashboard:
    """One SAE."""

    name: str
    facts: Mapping[str, Any]
    """JSON: the model, layer, site and what else says which SAE this is."""
    tokens: int
    """Tokens of the corpus that count."""
    fired: NDArray[np.int64]
    """[features]: tokens on which each fires."""
    total: NDArray[np.float64]
    """[features]: the sum of its activations."""
    largest: NDArray[np.float32]
    """[features]: 0 where it never fires."""
    windows: NDArray[np.int64]
    """[features]: windows in which it fires."""
    histogram: NDArray[np.int32]
    """[features, bins]: tokens by how strongly it fires; the first and last bin are open."""
    edges: NDArray[np.float32]
    """[bins + 1]: a bin holds its lower edge and not its upper."""
    top: Examples
    """Largest peak first; of equal ones the earlier window."""
    sample: Examples
    """Some of the windows in which it fires, all equally likely, largest peak first."""
    groups: NDArray[np.int8]
    """[features, k of `sample`]: which quantile group each is in, 0 the strongest; NONE."""
    idle: NDArray[np.int64]
    """[features, n]: windows in which it does not fire, NONE behind the last."""
    up: Ranked | None = None
    """Tokens whose logits it raises most."""
    down: Ranked | None = None
    """Tokens whose logits it lowers most."""
    near: Ranked | None = None
    """Features whose decoder rows are most like its own, by cosine."""
    notes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """What studies found of single features, by feature and kind."""
    lacking: Mapping[str, str] = field(default_factory=dict)
    """Why something is not there, by its name."""

    @property
    def features(self) -> int:
        """How many there are."""
        return len(self.fired)

    @property
    def density(self) -> NDArray[np.float64]:
        """[features], `density_v1`: tokens on which it fires / tokens that count."""
        return self.fired / max(1, self.tokens)

    @property
    def mean(self) -> NDArray[np.float64]:
        """[features], `mean_active_v1`: mean activation over the tokens on which it fires; nan
        where there are none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            found: NDArray[np.float64] = self.total / self.fired
        return found
