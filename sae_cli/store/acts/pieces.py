"""Rows between the forward and the disk: as they come, as chunks, and in a shard that fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.store.acts.moments import Tally
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.tables.writer import Shard


@dataclass(frozen=True)
class Rows:
    """Rows as they were put."""

    acts: Tensor
    """[n, d]"""
    reasons: NDArray[np.uint8]
    """[n]"""
    norms: Tensor | None
    """[n], of the rows as they were put; None: those of `acts`."""
    ready: Any = None
    """The event after which `acts` and `norms` are there; None: they are."""

    def __len__(self) -> int:
        return len(self.reasons)

    def __getitem__(self, some: slice) -> Rows:
        norms = None if self.norms is None else self.norms[some]
        return Rows(self.acts[some], self.reasons[some], norms, self.ready)


@dataclass
class Filling:
    """A shard that is being filled."""

    file: Shard
    tally: Tally
    error: float = 0.0
    taken: int = 0
    """Rows taken over from the caller."""
    rows: int = 0
    """Rows handed to the lanes."""
    pieces: list[Rows] = field(default_factory=list)
    reasons: list[NDArray[np.uint8]] = field(default_factory=list)
    """Of each chunk."""


def joined(pieces: Sequence[Rows]) -> tuple[Tensor, Tensor | None]:
    """The rows [n, d] of a chunk and, where any were given, their norms [n]; on the host, once they
    are there."""
    for piece in pieces:
        if piece.ready is not None:
            piece.ready.synchronize()
    if len(pieces) == 1:
        return pieces[0].acts, pieces[0].norms
    acts = torch.cat([piece.acts for piece in pieces])
    if all(piece.norms is None for piece in pieces):
        return acts, None
    norms = [norms_of(piece.acts) if piece.norms is None else piece.norms for piece in pieces]
    return acts, torch.cat(norms)


def on_host(rows: Rows) -> Rows:
    """`rows` in host memory, or on their way there.

    From a GPU they are copied on a stream of its own into pinned memory, while the next forward
    runs.
    """
    if not rows.acts.is_cuda:
        return replace(rows, acts=rows.acts.detach())
    device = rows.acts.device
    aside: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        acts = _pinned(rows.acts, aside)
        norms = None if rows.norms is None else _pinned(rows.norms, aside)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record(aside)
    return Rows(acts, rows.reasons, norms, ready)


def _pinned(there: Tensor, stream: Any) -> Tensor:
    """A copy in pinned memory, begun on `stream`."""
    host = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
    host.copy_(there.detach(), non_blocking=True)
    there.record_stream(stream)
    return host
