"""Which device the tensors live on. Needs torch alone, so that training starts quickly."""

from __future__ import annotations

import torch
from torch import nn

from sae_cli.errors import ModelError


def pick_device(name: str = "auto") -> torch.device:
    """`auto` (cuda, then cpu), or the device of that name.

    Raises ModelError, with the devices there are, if it is not one of them.
    """
    have = ["cpu"]
    if torch.cuda.is_available():
        have = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + have
    if name == "auto":
        return torch.device(have[0].removesuffix(":0"))
    full = "cuda:0" if name == "cuda" else name
    if full not in have:
        said = ", ".join(have)
        raise ModelError(
            f"device {name!r} is not available here (there is: {said})",
            hint="leave the device at `auto`, or name one of these.",
        )
    return torch.device(name)


def kind_of(device: torch.device) -> str:
    """A device as a record names it: `NVIDIA H200`, or `cpu`; never which one, or whose."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def input_device(model: nn.Module) -> torch.device:
    """Where a model wants its token ids: its first parameter's device.

    A first layer that was offloaded has none (`meta`); accelerate then moves ids from the CPU.
    """
    device = next(model.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device
