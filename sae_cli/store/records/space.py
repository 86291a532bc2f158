"""Room on disk: what is free, what stages take, and sizes as people say them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from sae_cli.store.layout import StageDir, size_of


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
