"""Progress of stages: bars with rate and ETA on a terminal, plain lines without one.

Everything here goes to stderr; results go to stdout.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

LINE_EVERY_S = 5.0


class Lines:
    """One plain line every few seconds, for logs and pipes."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._label, self._unit, self._total, self._first = "", "", 0, 0
        self._t0 = self._said = 0.0
        self._numbers: Mapping[str, float] = {}

    def begin(self, label: str, total: int, done: int, unit: str) -> None:
        """See `stages.task.Report`."""
        self._label, self._total, self._unit, self._first = label, total, unit, done
        self._t0 = self._said = time.monotonic()
        self._numbers = {}
        at = f", resumes at {done:,}" if done else ""
        self.note(f"{label}: {total:,} {unit}{at}")

    def at(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        """See `stages.task.Report`."""
        self._numbers = numbers or self._numbers
        now = time.monotonic()
        if now - self._said < LINE_EVERY_S:
            return
        self._said = now
        rate = (done - self._first) / max(now - self._t0, 1e-9)
        left = (self._total - done) / rate if rate > 0 else float("inf")
        shown = "".join(f"  {text}" for text in worded(self._numbers))
        self.note(
            f"{self._label}: {done:,}/{self._total:,} {self._unit}  {rate:,.0f} {self._unit}/s  "
            f"ETA {clock(left)}{shown}"
        )

    def note(self, text: str) -> None:
        """See `stages.task.Report`."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to take down."""


class Bars:
    """A rich progress bar for a person at a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[shown]}"),
            console=self._console,
            transient=True,
        )
        self._task: Any = None
        self._first, self._t0, self._unit = 0, 0.0, ""

    def begin(self, label: str, total: int, done: int, unit: str) -> None:
        """See `stages.task.Report`."""
        if self._task is None:
            self._progress.start()
        else:
            self._progress.remove_task(self._task)
        self._first, self._t0, self._unit = done, time.monotonic(), unit
        self._task = self._progress.add_task(
            label, total=total, completed=done, rate=unit, shown=""
        )
        if done:
            self.note(f"{label}: resumes at {done:,}/{total:,} {unit}")

    def at(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        """See `stages.task.Report`."""
        rate = (done - self._first) / max(time.monotonic() - self._t0, 1e-9)
        fields: dict[str, Any] = {"rate": f"{rate:,.0f} {self._unit}/s"}
        if numbers:
            fields["shown"] = "  ".join(worded(numbers))
        self._progress.update(self._task, completed=done, **fields)

    def note(self, text: str) -> None:
        """See `stages.task.Report`."""
        self._console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Take the bar down."""
        self._progress.stop()


def reporter(*, quiet: bool) -> Lines | Bars:
    """Bars if a person is watching stderr, else lines; with `quiet`, silence."""
    return Bars() if sys.stderr.isatty() and not quiet else Lines(quiet=quiet)


def worded(numbers: Mapping[str, float]) -> list[str]:
    """Numbers for people: a rate (`MB/s`) with its unit behind it, a share (`MFU`) in percent."""
    return [
        f"{v:,.0f} {k}" if "/" in k else f"{k} {v:.0%}" if k == "MFU" else f"{k} {v:.4g}"
        for k, v in numbers.items()
    ]


def clock(seconds: float) -> str:
    """A duration for people: 4s, 3m20s, 2h05m."""
    if seconds != seconds or seconds == float("inf"):
        return "?"
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    return f"{s // 3600}h{s % 3600 // 60:02d}m"
