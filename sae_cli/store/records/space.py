"""Room on this machine, of disk and memory: what is free, what stages take, sizes for people."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from sae_cli.store.layout import StageDir, size_of

_GROUP = Path("/sys/fs/cgroup")


def free_bytes(place: Path) -> int:
    """Bytes free for us on the disk that holds `place`, which need not exist yet."""
    there = place.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def used_bytes(stages: Iterable[StageDir]) -> dict[str, int]:
    """Bytes on this disk of stages, by kind."""
    found: dict[str, int] = {}
    for stage in stages:
        found[stage.kind] = found.get(stage.kind, 0) + size_of(stage.path)
    return found


def host_memory() -> int | None:
    """Bytes of memory that this process may still take; None where the system does not say. A
    container's limit counts where it is below the machine's."""
    known = [n for n in (_machine(), _container()) if n is not None]
    return min(known) if known else None


def told(n: int | None) -> str:
    """Bytes for people, in powers of ten as disks are sold."""
    if n is None:
        return "?"
    value = float(n)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        return None


def _container() -> int | None:
    """What a control group (version 2) leaves to its processes; its cached files don't count."""
    try:
        limit = (_GROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_GROUP / "memory.current").read_text(encoding="ascii"))
        stat = dict(
            line.split()
            for line in (_GROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        )
        return None if limit == "max" else int(limit) - used + int(stat["file"])
    except (OSError, ValueError, KeyError):
        return None
