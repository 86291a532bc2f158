"""What a stage is handed, and all it may say back.

A stage module has one function, `run(tasks)`: every task of a job shares the work that can be
shared (one forward, one read). A stage knows nothing of sweeps, plans, or terminals; it reads the
folders of its dependencies, writes its own, and calls `task.finish` when its data are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sae_cli.errors import Interrupted, SaectlError
from sae_cli.spec.work import Kind, Work

SHARED: frozenset[Kind] = frozenset({"cache"})
"""Kinds whose stages several processes may work on at once, each on parts of its own."""


class Report(Protocol):
    """Where a stage tells how far it is."""

    def begin(self, label: str, total: int, done: int, unit: str) -> None:
        """`total` units of work in all, of which `done` were there already."""

    def at(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        """`done` units are finished; `numbers` are worth showing beside them."""

    def note(self, text: str) -> None:
        """One line for the log."""


@dataclass(frozen=True)
class Dep:
    """A finished stage: what it was told, and where its data are."""

    work: Work
    path: Path
    key: str
    slug: str


def _raise(error: SaectlError) -> None:
    raise error


def _ignore(done: int, total: int) -> None:
    return


@dataclass(frozen=True)
class Task:
    """One stage to run: its work, its folder, its inputs, and its way to speak."""

    name: str
    key: str
    slug: str
    work: Work
    out: Path
    deps: Mapping[str, Dep]
    report: Report
    device: str
    stop: Callable[[], bool]
    """True once SIGINT or SIGTERM arrived: finish the step, commit, raise `Interrupted`."""
    finish: Callable[[Sequence[str], Mapping[str, Any]], None]
    """`finish(files, summary)`: the stage is complete; `files` relative to `out` are the result."""
    part: Callable[[str], AbstractContextManager[object]]
    """`with part(name)`: hold a part of a stage that several processes share (`SHARED`). Raises
    Blocked when another process does."""
    whole: Callable[[], AbstractContextManager[object]]
    """`with whole()`: hold all of a shared stage, to finish it. Raises Blocked while another
    process holds any part."""
    wait: Callable[[str], None]
    """`wait(why)`: what is left of the stage is another process's; look again later."""
    fail: Callable[[SaectlError], None] = _raise
    """`fail(error)`: the stage ends here, for a reason of its own; the job's others go on."""
    progress: Callable[[int, int], None] = _ignore
    """`progress(done, total)`: how far this stage is, where that is not how far the job is."""

    @property
    def scratch(self) -> Path:
        """The folder for resume state; removed once the stage is done."""
        return self.out / "work"

    def leave(self, where: str) -> None:
        """Raise Interrupted, saying where the stage stands, if a stop was asked for."""
        if self.stop():
            raise self.left(where)

    def left(self, where: str) -> Interrupted:
        """What says where the stage stands after a stop."""
        return Interrupted(f"interrupted: {self.name} is saved at {where}")
