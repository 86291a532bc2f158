"""What `inspect` and `monitor` print with `--json`, line by line, or into a file: versioned models.

Apart from the verbs, which load this when they are asked for.
"""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from sae_cli.spec.base import Frozen


class FeatureLine(Frozen):
    """A feature at a token."""

    feature: int
    activation: float
    """Raw activation units."""


class TokenLine(Frozen):
    """A token of an inspected text."""

    position: int
    """In the text, from 0; -1 is the token in front of it, which is none of the text."""
    id: int
    text: str
    counts: bool
    why_not: tuple[str, ...]
    """special, first, outlier: why it does not count."""
    active: int
    """Features that are active."""
    features: tuple[FeatureLine, ...]
    """The strongest of them."""


class NextLine(Frozen):
    """A next token."""

    id: int
    text: str
    probability: float
    logit: float


class ContributionLine(Frozen):
    """What a feature does to the logit of the next token."""

    feature: int
    activation: float
    contribution_v1: float
    """logit(clean) - logit(with this feature at zero there, the SAE's error kept)."""
    gradient_v1: float
    """activation * (decoder row . dlogit / dx)."""


class InspectOutput(Frozen):
    """`saectl inspect --json`."""

    version: Literal[1] = 1
    sae: str
    model: str
    layer: int
    site: str
    out_site: str | None
    """What a transcoder writes to."""
    tokens: tuple[TokenLine, ...]
    position: int
    next: tuple[NextLine, ...]
    """The most likely tokens behind it."""
    target: NextLine
    """The one that contributions are to."""
    resolution: float | None
    """The step between neighbouring logits in the model's number format."""
    active: int | None
    """Features that are active at the position."""
    tried: int | None
    """Those that were set to zero, one after the other: the largest by gradient."""
    contributions: tuple[ContributionLine, ...] | None
    why_no_contributions: str | None
    notes: tuple[str, ...]


class FiredLine(Frozen):
    """A token that fired."""

    position: int
    text: str
    activation: float


class RuleLine(Frozen):
    """A rule's word on a text."""

    score: float | None
    threshold: float
    fired: bool | None
    reason: str | None = None
    """Why there is no score."""
    tokens: tuple[FiredLine, ...]
    """The strongest of the tokens above the threshold, in the order of the text."""
    tokens_fired: int
    """How many are above it."""


class TextRecord(Frozen):
    """A line of `saectl monitor`."""

    version: Literal[1] = 1
    line: int
    """Of the input, from 1."""
    id: JsonValue = None
    """That of the input's line, if it has one."""
    label: bool | dict[str, bool] | None = None
    tokens: int
    counted: int
    """Tokens that count."""
    windows: int
    """How many it was read in; a token sees its own window alone."""
    rules: dict[str, RuleLine]


class BadRecord(Frozen):
    """A line of `saectl monitor` of a line that can't be read."""

    version: Literal[1] = 1
    line: int
    error: str


class EstimateLine(Frozen):
    """A number with its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None


class VerdictLine(Frozen):
    """A rule against the labels."""

    rule: str
    texts: int
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    precision_v1: EstimateLine
    recall_v1: EstimateLine
    fpr_v1: EstimateLine
    auroc_v1: EstimateLine


class MonitorReport(Frozen):
    """`saectl monitor --report FILE`."""

    version: Literal[1] = 1
    rules_file: str
    sae: str
    lines: int
    texts: int
    bad: int
    unlabelled: int
    fired: dict[str, int]
    """Texts that each rule fired on."""
    rules: tuple[VerdictLine, ...]
    """Of those that have labelled texts."""
