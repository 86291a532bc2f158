"""From numbers to places on an axis, and the round numbers that are written beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_TICKS = 6


@dataclass(frozen=True)
class Axis:
    """What one direction of a chart means."""

    label: str
    """With its unit."""
    log: bool = False
    ticks: tuple[float, ...] | None = None
    """Where numbers stand; left out, at round ones."""
    low: float | None = None
    """Where it begins and ends; left out, where the data does, and a little room."""
    high: float | None = None


@dataclass(frozen=True)
class Scale:
    """An axis of known ends, laid on pixels."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        a, b, v = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (v - a) / (b - a)

    def holds(self, value: float) -> bool:
        """Whether a value can be shown: a logarithmic axis has no zero."""
        return math.isfinite(value) and (not self.log or value > 0)


def scale(axis: Axis, values: Sequence[float], start: float, end: float) -> Scale:
    """Lay `axis` over the values that are to be shown on it, at least one of which it can show."""
    shown = [v for v in values if math.isfinite(v) and (not axis.log or v > 0)]
    low = min(shown, default=1.0) if axis.low is None else axis.low
    high = max(shown, default=1.0) if axis.high is None else axis.high
    if axis.log:
        room = (high / low) ** 0.06 if high > low else 1.5
        low, high = (
            low / room if axis.low is None else low,
            high * room if axis.high is None else high,
        )
    else:
        room = 0.06 * (high - low) if high > low else abs(high) * 0.1 or 0.5
        touches = 0 <= low <= 0.35 * high  # an axis that nearly begins at zero begins there
        if axis.low is None:
            low = 0.0 if touches or low == 0 else low - room
        high = high + room if axis.high is None else high
    ticks = axis.ticks or (log_ticks(low, high) if axis.log else linear_ticks(low, high))
    inside = tuple(t for t in ticks if low * (1 - 1e-9) - 1e-12 <= t <= high * (1 + 1e-9) + 1e-12)
    return Scale(low, high, start, end, axis.log, inside)


def linear_ticks(low: float, high: float) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten, seven at most."""
    least = (high - low) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Powers of ten; with 2 and 5 between where there are few of them; else round numbers."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**n for n in range(first, last + 1)]
    inside = [p for p in powers if low <= p <= high]
    if len(inside) > MOST_TICKS:
        return tuple(inside[:: -(-len(inside) // MOST_TICKS)])
    if len(inside) > 2:
        return tuple(inside)
    between = [m * p for p in powers for m in (1, 2, 5) if low <= m * p <= high]
    return tuple(between) if len(between) > 2 else linear_ticks(low, high)


def told(value: float) -> str:
    """A number beside an axis: as short as it can be without being wrong."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and (size > 1e3 or abs(value) >= 1e4 or value % 100 == 0):
            return f"{value / size:.4g}{unit}"
    if value and abs(value) < 1e-3:
        mantissa, _, power = f"{value:.0e}".partition("e")
        digits = str(int(power)).replace("-", "−")
        return f"{mantissa}e{digits}"
    return f"{value:.4g}".replace("-", "−")
