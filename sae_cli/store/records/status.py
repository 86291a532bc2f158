"""Where a stage stands, read from its folder alone: `status` needs no scheduler and no database.

Reads records and the claim, writes nothing, takes no lock: it may look at any stage at any time.
Nothing is guessed from modification times of data or from which data files happen to exist.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sae_cli.errors import StoreError
from sae_cli.store.atomic import read_json
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import LEASE, claim_age, is_stale, read_holder
from sae_cli.store.records.ledger import Done, read_done


class Status(StrEnum):
    """Where a stage stands."""

    ABSENT = "absent"
    """There is no folder."""
    PENDING = "pending"
    """Begun or not, nobody is at it, and nothing went wrong."""
    RUNNING = "running"
    STALE = "stale"
    """Its process is gone; the next run takes over."""
    FAILED = "failed"
    DONE = "done"
    EVICTED = "evicted"
    """Done, then its data deleted; a run makes it anew."""


@dataclass(frozen=True)
class State:
    """A stage's status and what there is to say about it."""

    status: Status
    age: float | None = None
    """Seconds since it finished, failed, was evicted, or was last heard of."""
    host: str | None = None
    pid: int | None = None
    step: int | None = None
    total: int | None = None
    cause: str | None = None
    """One line, when failed."""
    log: str | None = None
    """Path of the log, when failed."""
    workers: int = 0
    """Living processes that work on it."""
    done: Done | None = None
    """The record, when done or evicted."""
    evicted: tuple[str, ...] = field(default=())
    """Relative paths that were deleted."""
    left: float | None = None
    """Seconds that a running stage still takes, at the rate of its holder's own steps."""


def state(stage: StageDir, lease: float = LEASE) -> State:
    """Where the stage stands, read from disk. A damaged done.json counts as a failure."""
    if not stage.path.is_dir():
        return State(Status.ABSENT)
    now = time.time()
    try:
        done, gone = read_done(stage), read_json(stage.evicted)
    except StoreError as damage:
        return State(Status.FAILED, cause=damage.what, log=str(stage.log))
    if done is not None and gone is None:
        return State(Status.DONE, age=now - done.finished_at, host=done.host, done=done)
    progress = _progress(stage)
    step, total = progress.get("step"), progress.get("total")
    found = _liveliest(stage, now, lease)
    if found is not None and not (found.stale and done is not None):
        if progress.get("token") not in found.tokens:
            step = total = None
            progress = {}
        if found.stale:
            return State(Status.STALE, found.age, found.host, found.pid, step, total)
        return State(
            Status.RUNNING, found.age, found.host, found.pid, step, total,
            workers=found.workers, left=_left(progress, now),
        )  # fmt: skip
    failed = read_json(stage.failed)
    if failed is not None:
        return State(
            Status.FAILED,
            age=now - failed["failed_at"],
            step=step,
            total=total,
            cause=failed["cause"],
            log=failed["log"],
        )
    if done is not None and gone is not None:
        age = now - gone["evicted_at"]
        return State(Status.EVICTED, age, done=done, evicted=tuple(gone["paths"]))
    return State(Status.PENDING, step=step, total=total)


@dataclass(frozen=True)
class _Claimed:
    """What a stage's claims say together: who was heard of last, whether nobody lives."""

    stale: bool
    age: float
    host: str
    pid: int
    tokens: frozenset[str]
    workers: int


def _liveliest(stage: StageDir, now: float, lease: float) -> _Claimed | None:
    found = []
    for path in stage.claims:
        holder, age = read_holder(path), claim_age(path, now)
        if holder is not None and age is not None:
            found.append((is_stale(holder, age, lease), age, holder))
    if not found:
        return None
    stale, age, holder = min(found, key=lambda one: one[:2])
    tokens = frozenset(h.token for *_, h in found)
    alive = {(h.host, h.space, h.pid) for gone, _, h in found if not gone}
    return _Claimed(stale, age, holder.host, holder.pid, tokens, len(alive))


def committed(stage: StageDir) -> tuple[int, int] | None:
    """Rows of activations that are committed on this disk, by whomever, and rows planned.

    None where an array was not begun, or its commits lie in a bucket: looking asks nobody.
    """
    try:
        planned = read_json(stage.activations / "acts" / "zarr.json")
        if planned is None or (stage.path / "data.json").exists():
            return None
        from sae_cli.store.tables.files import LocalFiles
        from sae_cli.store.tables.journal import read_entries

        rows = sum(int(entry["rows"]) for entry in read_entries(LocalFiles(stage.path)))
        return rows, int(planned["shape"][0])
    except (StoreError, KeyError, TypeError, IndexError):
        return None  # damaged: `verify` says how


def _left(progress: Mapping[str, float], now: float) -> float | None:
    """Seconds to the end, at the rate since its holder began; None before it made a step."""
    try:
        made = progress["step"] - progress["first"]
        took = progress["at"] - progress["since"]
        if made <= 0 or took <= 0:
            return None
        ahead = float(progress["total"] - progress["step"]) * took / made
        return max(0.0, ahead - max(0.0, now - progress["at"]))
    except (KeyError, TypeError):
        return None  # written by an earlier version


def _progress(stage: StageDir) -> dict[str, Any]:
    """What the holder last said; nothing if it was torn by a power cut (it is never synced)."""
    try:
        return read_json(stage.progress) or {}
    except StoreError:
        return {}
