"""A few numbers on their way from the device, read without stopping what it does next."""

from __future__ import annotations

import torch
from torch import Tensor


class Later:
    """The numbers of a small tensor as it is now. On a GPU the copy runs beside later work, and
    reading waits for what was asked before the copy only; on a CPU they are there at once."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> list[float]:
        """The numbers, flat."""
        if self._event is not None:
            self._event.synchronize()
        return [float(value) for value in self._host.flatten().tolist()]
