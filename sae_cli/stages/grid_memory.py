"""The memory that a training finds here: what a planned grid is held against.

Free is what this process may still take, with a tenth left to libraries and to the allocator's
odds and ends. A container's limit counts where it is below the machine's.
"""

from __future__ import annotations

import torch

from sae_cli.errors import ModelError
from sae_cli.lm.device import pick_device
from sae_cli.store.records.space import host_memory

SPARE = 0.1
"""Share of what is free that is not promised to anybody."""


def free_memory(device: str) -> tuple[int | None, int | None]:
    """Bytes to be had on the GPU that `device` means (None: it is the CPU) and on the CPU (None:
    the system does not say)."""
    host = host_memory()
    on_host = None if host is None else int(host * (1 - SPARE))
    try:
        chosen = pick_device(device)
    except ModelError:  # the stage itself says so, to whom it concerns
        return None, on_host
    if chosen.type != "cuda":
        return None, on_host
    free, _ = torch.cuda.mem_get_info(chosen)
    ours = torch.cuda.memory_reserved(chosen) - torch.cuda.memory_allocated(chosen)
    return int((free + ours) * (1 - SPARE)), on_host
