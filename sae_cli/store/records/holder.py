"""Who is named in a claim, and whether that process lives.

On the same host, in the same process namespace, the system knows. From anywhere else a claim lives
as long as its heartbeat changes: who waits for it remembers the beat that it saw, and calls the
holder dead when the very same beat is there after `lease` seconds of its own monotonic clock. So
no two clocks are ever compared, and it holds wherever a file's times come from: the server (local
disks, NFS), or each client's own clock (Lustre, CephFS and others), however wrong that is. A claim
is opened whenever it is looked at: NFS then asks its server, not its cache of attributes.

Who looks for the first time can't know that yet. It takes a holder for dead only when the latest
beat is older than `LONG_AGO` by the file system's own clock; clocks that are further apart do not
get as far (stores refuse to be asked by them). The records of what was seen are all this module
keeps; they hold for this process, and are lost with it without harm.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

LEASE = 60.0
"""Seconds without a heartbeat after which a holder elsewhere is dead."""
LONG_AGO = 900.0
"""Age, in seconds, of a heartbeat that needs no watching."""


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

    @classmethod
    def here(cls, token: str) -> Holder:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _space(), _birth(pid), token, time.time())

    @property
    def runs(self) -> bool | None:
        """Whether the process is there; None where this one can't know."""
        if self.host != socket.gethostname() or self.space != _space():
            return None
        return _runs(self.pid, self.born)


NOBODY = Holder("", 0, None, None, "", 0.0)
"""Who is named by a claim that was not written to its end. Claims are written and taken over under
one lock, so its writer died there; should the lock not have kept it out, it learns from reading its
claim back."""


def read_holder(path: Path) -> Holder | None:
    """Who a claim file names, or None without one. Unreadable bytes: `NOBODY`."""
    found = look(path)
    return None if found is None else found[0]


def look(path: Path) -> tuple[Holder, int] | None:
    """Who a claim file names, and its latest heartbeat (the file's time, in ns)."""
    try:
        with path.open("rb") as file:
            beat, text = os.fstat(file.fileno()).st_mtime_ns, file.read()
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text)), beat
    except (ValueError, TypeError):
        return NOBODY, beat


class Watch:
    """What this process saw of claims, and since when nothing else. Threads may share it."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[str, int, float]] = {}
        self._turn = Lock()

    def dead(self, path: Path, holder: Holder, beat: int, now: float, lease: float) -> bool:
        """Whether a claim that was just looked at may be taken over.

        `now`: the file system's time, in seconds since 1970; `lease`: seconds.
        """
        if holder == NOBODY:
            return True
        runs = holder.runs
        if runs is not None:
            return not runs
        return self._silence(path, holder.token, beat) > lease or now - beat / 1e9 > LONG_AGO

    def _silence(self, path: Path, token: str, beat: int) -> float:
        """For how many seconds this beat, and no other, was seen."""
        with self._turn:
            now = time.monotonic()
            before = self._seen.get(path)
            if before is None or before[:2] != (token, beat):
                before = self._seen[path] = (token, beat, now)
            return now - before[2]


def is_stale(holder: Holder, age: float, lease: float = LEASE) -> bool:
    """Whether a claim touched `age` seconds ago looks dead, to one who looks once: for display."""
    runs = holder.runs
    return age > lease if runs is None else not runs


def claim_age(path: Path, now: float) -> float | None:
    """Seconds from the latest heartbeat of a claim file to `now`, or None without one."""
    found = look(path)
    return None if found is None else max(0.0, now - found[1] / 1e9)


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
