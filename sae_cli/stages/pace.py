"""How far a capture is, how fast it goes, and when it may stop.

It may leave once every array that it is at has gained a shard: leaving earlier, a stage that is
stopped again and again would repeat itself for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sae_cli.stages.task import Task
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.acts.strands import Lanes


class Pace:
    """Follows a capture of `rows` tokens, `row_bytes` of activations each, for `tasks`."""

    def __init__(
        self, tasks: Sequence[Task], rows: int, row_bytes: int, utilisation: float | None
    ) -> None:
        """`utilisation`: share of the device's peak that one token a second makes, if known."""
        self._task, self._rows, self._row_bytes = tasks[0], rows, row_bytes
        self._utilisation = utilisation
        self._label = tasks[0].slug if len(tasks) == 1 else f"{len(tasks)} sites"
        self._begun = False
        self._here: list[tuple[Recorder, int]] = []
        self._done = self._first = self._seen = 0
        self._since = time.monotonic()

    @contextmanager
    def following(self, recorders: Sequence[Recorder], done: int, rows: range) -> Iterator[None]:
        """While a part, `rows`, is captured; `done` rows of the whole are there already."""
        if not self._begun:
            self._task.report.begin(self._label, self._rows, done, "tokens")
            self._begun = True
        self._here = [(recorder, recorder.committed_rows) for recorder in recorders]
        self._done, self._first, self._seen = done, rows.start, rows.start
        try:
            yield
        finally:
            self._here = []

    def passed(self, end: int, lanes: Lanes) -> None:
        """The forward has read the part up to row `end`. Raises Interrupted if a stop was asked for
        and every array has gained something."""
        now = time.monotonic()
        rate = (end - self._seen) / max(now - self._since, 1e-9)
        self._seen, self._since = end, now
        numbers = {"MB/s": rate * self._row_bytes / 1e6}
        if self._utilisation is not None:
            numbers["MFU"] = rate * self._utilisation
        self._task.report.at(min(self._done + end - self._first, self._rows), numbers)
        if self._task.stop():
            lanes.drain()
            if all(r.committed_rows > before or not r.missing for r, before in self._here):
                gained = min(r.committed_rows - before for r, before in self._here)
                self._task.leave(f"{self._done + gained:,} of {self._rows:,} tokens")
