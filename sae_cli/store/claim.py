"""Who works on a stage now: one claim file, a heartbeat, and takeover from the dead.

A claim is of the whole stage, or of a part of it: parts are claimed beside each other, the whole
only when nobody holds any. A claim is made by exclusive create and kept alive by touching it. It
is stale when its process is known to be gone (same host and process namespace), or, from anywhere
else, when it was not touched for `lease` seconds. A stale claim is renamed away and a new one
created and read back, all under a lock that dies with its holder, so of two takers exactly one
wins.

Relied on: O_EXCL create and rename are atomic, and flock is honoured (local disks; NFSv3 and
later with a lock manager). Should flock reach one host only, the rename is checked after the
fact and undone, and a holder that lost its claim learns so from `check`.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_cli.errors import Blocked, StoreError
from sae_cli.store.atomic import append_all, explained, lock_now, sweep, write_json
from sae_cli.store.layout import StageDir

LEASE = 60.0
HEARTBEAT = 10.0
_LOCK_PATIENCE = 10.0


@dataclass(frozen=True)
class Holder:
    """The process named in a claim."""

    host: str
    pid: int
    space: str | None
    """Boot and process namespace in which `pid` means something."""
    born: int | None
    """The process's start, in clock ticks since boot; tells it from a later one of the same pid."""
    token: str
    started_at: float
    """Seconds since 1970."""


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
        """Tell `status` how far the work is. Written with the next heartbeat: costs nothing."""
        self._progress = {"step": step, "total": total, "token": self.token}

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
                write_json(self.stage.progress, progress, durable=False)
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
) -> Iterator[Claim]:
    """Hold the stage, or a part of it, while inside. Removes an earlier attempt's failed.json: this
    is a new start.

    `heartbeat` and `lease` are seconds. Raises Blocked, naming host, pid and age, when a living
    process holds what overlaps: the whole overlaps every part.
    """
    assert heartbeat < lease
    held = _acquire(stage, part, lease, heartbeat)
    try:
        for folder in (stage.path, stage.work) if part is None else ():
            sweep(folder)
        stage.failed.unlink(missing_ok=True)
        yield held
    finally:
        held._release()


def read_holder(path: Path) -> Holder | None:
    """Who a claim file names, or None without one. Unreadable bytes: a holder without a host."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return Holder("", 0, None, None, "", 0.0)


def is_held(stage: StageDir, part: str | None = None, lease: float = LEASE) -> bool:
    """Whether a living process holds the stage, or a part of it."""
    path = stage.part_claim(part)
    holder, age = read_holder(path), claim_age(path)
    return holder is not None and age is not None and not is_stale(holder, age, lease)


def is_stale(holder: Holder, age: float, lease: float = LEASE) -> bool:
    """Whether a claim touched `age` seconds ago may be taken over."""
    if holder.host == socket.gethostname() and holder.space == _space():
        return not _runs(holder.pid, holder.born)
    return age > lease


def claim_age(path: Path, now: float | None = None) -> float | None:
    """Seconds since the latest heartbeat of a claim file, or None without one."""
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return None
    return max(0.0, (time.time() if now is None else now) - touched)


def _acquire(stage: StageDir, part: str | None, lease: float, heartbeat: float) -> Claim:
    with explained(stage.path, "create"):
        stage.path.mkdir(parents=True, exist_ok=True)
    token, path = secrets.token_hex(16), stage.part_claim(part)
    with _transfer(stage) as now:
        rivals = stage.claims if part is None else [stage.claim, path]
        for rival in rivals:
            holder, age = read_holder(rival), claim_age(rival, now)
            if holder is not None and age is not None:
                if not is_stale(holder, age, lease):
                    raise _blocked(stage, holder, age)
                _set_aside(stage, rival, holder)
        handle = _create(stage, path, token)
    held = read_holder(path)
    if held is None or held.token != token:
        os.close(handle)
        raise _blocked(stage, held, 0.0)
    return Claim(stage, part, token, handle, heartbeat)


def _create(stage: StageDir, path: Path, token: str) -> int:
    pid = os.getpid()
    mine = Holder(socket.gethostname(), pid, _space(), _birth(pid), token, time.time())
    with explained(path):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            raise _blocked(stage, read_holder(path), 0.0) from None
        append_all(handle, json.dumps(asdict(mine)).encode())
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
            os.utime(handle)
            now = os.fstat(handle).st_mtime
        yield now
    finally:
        os.close(handle)


def _blocked(stage: StageDir, holder: Holder | None, age: float) -> Blocked:
    if holder is None or not holder.host:
        return Blocked(f"{stage} is just now being claimed by another process")
    return Blocked(
        f"{stage} is claimed by {holder.host} pid {holder.pid}, last heard of {age:.0f} s ago",
        hint="wait for it, or end that process; a dead one's claim is taken over by itself",
    )


def _space() -> str | None:
    """What makes a pid of this process's view unique; None where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _runs(pid: int, born: int | None) -> bool:
    """Whether the process is there and is the one that was born then."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is there, and another user's
    now = _birth(pid)
    return now is None or born is None or now == born


def _birth(pid: int) -> int | None:
    """A process's start in clock ticks since boot, -1 for a zombie, None where unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return -1 if fields[0] in "ZX" else int(fields[19])
