"""The memory that a training finds here: what a planned grid is held against.

Free is what this process may still take, with a tenth left to libraries and to the allocator's
odds and ends. A container's limit counts where it is below the machine's.
"""

from __future__ import annotations

from pathlib import Path

import torch

from sae_cli.errors import ModelError
from sae_cli.lm.device import pick_device

SPARE = 0.1
"""Share of what is free that is not promised to anybody."""
_GROUP = Path("/sys/fs/cgroup")


def free_memory(device: str) -> tuple[int | None, int | None]:
    """Bytes to be had on the GPU that `device` means (None: it is the CPU) and on the CPU (None:
    the system does not say)."""
    host = [n for n in (_machine(), _container()) if n is not None]
    on_host = int(min(host) * (1 - SPARE)) if host else None
    try:
        chosen = pick_device(device)
    except ModelError:  # the stage itself says so, to whom it concerns
        return None, on_host
    if chosen.type != "cuda":
        return None, on_host
    free, _ = torch.cuda.mem_get_info(chosen)
    ours = torch.cuda.memory_reserved(chosen) - torch.cuda.memory_allocated(chosen)
    return int((free + ours) * (1 - SPARE)), on_host


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
