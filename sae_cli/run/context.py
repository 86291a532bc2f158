"""What a run brings to each of its jobs. Holds no truth: that is on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sae_cli.plan.graph import Stage
from sae_cli.stages.task import Report
from sae_cli.store.layout import Workspace


@dataclass
class Context:
    """What a run brings to every job."""

    workspace: Workspace
    report: Report
    device: str
    stop: Callable[[], bool]
    force: set[str] = field(default_factory=set)
    """Names of stages to do again although they are done; each once."""
    verbose: bool = False
    verified: set[str] = field(default_factory=set)
    """Names of stages whose results were hashed in this run, and are what their record says."""
    readable: set[str] = field(default_factory=set)
    """Models and texts that were found to be readable in this run."""
    room: Callable[[Sequence[Stage]], str | None] = lambda _: None
    """Why there is no room for what these stages write (a quota), or None."""
    memory: int | None = None
    """Bytes that trainings in one pass may take on their device; None: what is free there."""
    sweep: tuple[str, ...] = ()
    """The words of a command line that name this sweep, as the workspace has recorded it."""
    quiet: bool = False
