"""Who works on a stage now: one claim file, a heartbeat, and takeover from the dead.

A claim is of the whole stage, or of a part of it. Parts are claimed beside each other, but for
those that overlap (parts named `FIRST-END` are ranges; processes may cut a stage into parts of
different sizes); the whole only when nobody holds any. A claim is made by exclusive create and
kept alive by touching it; `holder` tells when its process is dead. A dead one's claim is renamed
away and a new one created and read back, all under a lock that dies with its holder, so of two
takers exactly one wins.

Relied on: O_EXCL create and rename are atomic, and flock is honoured (local disks; NFSv3 and
later with a lock manager). Should flock reach one host only, the rename is checked after the
fact and undone, and a holder that lost its claim learns so from `check`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sae_cli.errors import Blocked, StoreError
from sae_cli.store.atomic import append_all, explained, lock_now, sweep, write_json
from sae_cli.store.layout import StageDir
from sae_cli.store.records.holder import (
    LEASE,
    Holder,
    Watch,
    claim_age,
    is_stale,
    look,
    read_holder,
)

__all__ = ["LEASE", "Claim", "Holder", "claim", "claim_age", "is_held", "is_stale", "read_holder"]

HEARTBEAT = 10.0
_LOCK_PATIENCE = 10.0
_RANGE = re.compile(r"(\d+)-(\d+)")
_WATCH = Watch()


class Claim:
    """A claim that this process holds. Made by `claim`, used inside its `with`."""

    def __init__(
        self, stage: StageDir, part: str | None, token: str, handle: int, heartbeat: float
    ) -> None:
        self.stage = stage
        self.path = stage.part_claim(part)
        self.token = token
        self._handle = handle
        self._progress: dict[str, Any] | None = None
        self._begun: tuple[int, float] | None = None
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._run, args=(heartbeat,), daemon=True)
        self._beat.start()

    def check(self) -> None:
        """Call before every commit. Raises Blocked when the claim is no longer ours."""
        if not self.held():
            holder = read_holder(self.path)
            by = f" by {holder.host} pid {holder.pid}" if holder else ""
            raise Blocked(
                f"{self.stage} was taken over{by}: this process was silent for too long",
                hint="nothing is lost: the new holder goes on from the last commit",
            )

    def held(self) -> bool:
        """Whether the claim on disk is still ours."""
        holder = read_holder(self.path)
        return holder is not None and holder.token == self.token

    def progress(self, step: int, total: int) -> None:
        """Tell `status` how far the work is. Written with the next heartbeat: costs nothing.

        The step that is told first, and when, goes along: from there on this holder's own steps
        count, so that a rate is never that of an earlier run.
        """
        if self._begun is None:
            self._begun = step, time.time()
        first, since = self._begun
        self._progress = {
            "step": step, "total": total, "token": self.token, "first": first, "since": since,
        }  # fmt: skip

    def forget_progress(self) -> None:
        """Write no progress any more: the work is done and its scratch folder goes."""
        self._progress = None

    def _run(self, every: float) -> None:
        while not self._stop.wait(every):
            self._touch()

    def _touch(self) -> None:
        progress, self._progress = self._progress, None
        try:
            os.utime(self._handle)  # our inode: should it have been renamed away, no harm is done
            if progress is not None and self.held():
                self.stage.work.mkdir(exist_ok=True)
                write_json(self.stage.progress, progress | {"at": time.time()}, durable=False)
        except (OSError, StoreError):
            return  # as good as no heartbeat: others see the age, and `check` sees the file

    def _release(self) -> None:
        self._stop.set()
        self._beat.join()
        self._touch()
        os.close(self._handle)
        with _transfer(self.stage):
            if self.held():
                self.path.unlink()


@contextmanager
def claim(
    stage: StageDir,
    part: str | None = None,
    *,
    lease: float = LEASE,
    heartbeat: float = HEARTBEAT,
    patience: float = 0.0,
) -> Iterator[Claim]:
    """Hold the stage, or a part of it, while inside. Removes an earlier attempt's failed.json: this
    is a new start.

    `heartbeat` and `lease` are seconds, and so is `patience`: how long another holder of the part
    is waited for (of the whole: never). Raises Blocked, naming host, pid and age, when a living
    process holds what overlaps: the whole overlaps every part.
    """
    assert heartbeat < lease
    deadline = time.monotonic() + patience
    while True:
        try:
            held = _acquire(stage, part, lease, heartbeat)
            break
        except Blocked:
            if time.monotonic() >= deadline or stage.claim.exists():
                raise
        time.sleep(0.02)
    try:
        for folder in (stage.path, stage.work) if part is None else ():
            sweep(folder)
        stage.failed.unlink(missing_ok=True)
        yield held
    finally:
        held._release()


def is_held(stage: StageDir, part: str, lease: float = LEASE) -> bool:
    """Whether a living process holds what overlaps a part: to claim it would be refused."""
    rivals = _rivals(stage, part)
    if not rivals:
        return False
    with explained(stage.claim_lock, "touch"):
        handle = os.open(stage.claim_lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            now = _touched(handle)
        finally:
            os.close(handle)
    found = [(path, look(path)) for path in rivals]
    return any(seen and not _WATCH.dead(path, *seen, now, lease) for path, seen in found)


def _rivals(stage: StageDir, part: str | None) -> list[Path]:
    """The claims that are there and overlap this one."""
    name = stage.claim.name
    return [
        path
        for path in stage.claims
        if part is None or path.name == name or _overlap(path.name[len(name) + 1 :], part)
    ]


def _overlap(one: str, other: str) -> bool:
    a, b = _RANGE.fullmatch(one), _RANGE.fullmatch(other)
    if a is None or b is None:
        return one == other
    return int(a[1]) < int(b[2]) and int(b[1]) < int(a[2])


def _acquire(stage: StageDir, part: str | None, lease: float, heartbeat: float) -> Claim:
    with explained(stage.path, "create"):
        stage.path.mkdir(parents=True, exist_ok=True)
    token, path = secrets.token_hex(16), stage.part_claim(part)
    with _transfer(stage) as now:
        for rival in _rivals(stage, part):
            seen = look(rival)
            if seen is None:
                continue
            holder, beat = seen
            if not _WATCH.dead(rival, holder, beat, now, lease):
                raise _blocked(stage, holder, max(0.0, now - beat / 1e9))
            _set_aside(stage, rival, holder)
        handle = _create(stage, path, token)
    held = read_holder(path)
    if held is None or held.token != token:
        os.close(handle)
        raise _blocked(stage, held, 0.0)
    return Claim(stage, part, token, handle, heartbeat)


def _create(stage: StageDir, path: Path, token: str) -> int:
    text = json.dumps(asdict(Holder.here(token))).encode()
    with explained(path):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            raise _blocked(stage, read_holder(path), 0.0) from None
        try:
            append_all(handle, text)
        except OSError:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
    return handle


def _set_aside(stage: StageDir, path: Path, stale: Holder) -> None:
    """Rename the stale claim away, and put it back if it turns out to be another's, alive."""
    aside = stage.path / f".claim.{secrets.token_hex(8)}.stale"
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # released in the meantime
    moved = read_holder(aside)
    if moved is None or moved.token != stale.token:
        # Should a third process have it by now, the one we moved will learn so from `check`.
        with suppress(FileExistsError):
            path.hardlink_to(aside)
        aside.unlink(missing_ok=True)
        raise _blocked(stage, read_holder(path), 0.0)
    aside.unlink(missing_ok=True)


@contextmanager
def _transfer(stage: StageDir) -> Iterator[float]:
    """The lock under which a claim changes hands; yields the file system's own time."""
    with explained(stage.claim_lock, "lock"):
        handle = os.open(stage.claim_lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with explained(stage.claim_lock, "lock"):
            deadline = time.monotonic() + _LOCK_PATIENCE
            while not lock_now(handle):
                if time.monotonic() > deadline:
                    raise Blocked(f"{stage} is just now being claimed by another process")
                time.sleep(0.02)
            now = _touched(handle)
        for left in stage.path.glob(".claim.*.stale"):  # of one that was killed in `_set_aside`
            left.unlink(missing_ok=True)
        yield now
    finally:
        os.close(handle)


def _touched(handle: int) -> float:
    """The file system's own time, in seconds since 1970: an open file's, which was touched now."""
    os.utime(handle)
    return os.fstat(handle).st_mtime


def _blocked(stage: StageDir, holder: Holder | None, age: float) -> Blocked:
    if holder is None or not holder.host:
        return Blocked(f"{stage} is just now being claimed by another process")
    return Blocked(
        f"{stage} is claimed by {holder.host} pid {holder.pid}, last heard of {age:.0f} s ago",
        hint="wait for it, or end that process; a dead one's claim is taken over by itself",
    )
