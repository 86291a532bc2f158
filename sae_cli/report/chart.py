"""A chart as data: what is drawn, and in words. `svg` draws it, a page or a file shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sae_cli.report.scale import Axis

PALETTE = 7
"""Colours of series; a chart with more would be read by nobody."""
FRONT, CONTROL = -1, -2
"""Styles that are no colour of the palette: a Pareto front, and controls (CONTROL and below)."""


@dataclass(frozen=True)
class Series:
    """Points that belong together."""

    label: str
    points: tuple[tuple[float, float], ...]
    style: int
    """Which colour and mark: 0 .. PALETTE - 1, FRONT, or CONTROL and below."""
    line: bool = False
    marks: bool = True
    hollow: bool = False
    dashed: bool = False
    step: bool = False
    """Each value holds until the next point."""
    tips: tuple[str, ...] = ()
    """What each mark says when it is pointed at."""
    bars: tuple[tuple[float, float] | None, ...] = ()
    """Ends of each point's interval, up and down."""


@dataclass(frozen=True)
class Ring:
    """A point that is singled out, with a word beside it."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Chart:
    """One panel."""

    name: str
    """Of its file, and of its element on a page."""
    title: str
    text: str
    """What it shows, for those who can't see it."""
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rings: tuple[Ring, ...] = ()
    left_out: str = ""
    """What is not drawn, and why."""


def styles(labels: Sequence[str]) -> dict[str, int]:
    """A colour for each label, in their order; from the eighth on they come again."""
    return {label: i % PALETTE for i, label in enumerate(dict.fromkeys(labels))}
