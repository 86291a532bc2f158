"""Which backend a training gets. Decided here, once, when its trainer is made."""

from __future__ import annotations

import os

import torch

from sae_cli.errors import TrainingError
from sae_cli.sae.backend import TORCH, Backend
from sae_cli.spec.train_base import Kernels

CAPABILITY = (8, 0)
"""The oldest NVIDIA GPUs that Triton supports."""


def backend_for(wanted: Kernels, device: torch.device) -> Backend:
    """The backend of a training on `device`: for `auto` the kernels where they can run on a GPU.

    Raises TrainingError when `triton` is wanted and can't run there.
    """
    if wanted == "torch" or (wanted == "auto" and device.type != "cuda"):
        return TORCH
    obstacle = _obstacle(device)
    if obstacle is None:
        try:
            from sae_cli.sae.kernels.backend import TRITON
        except ImportError as error:
            obstacle = f"Triton can't be imported ({error})"
        else:
            return TRITON
    if wanted == "auto":
        return TORCH
    raise TrainingError(
        f"train.kernels is triton, which can't run on {device}: {obstacle}",
        hint="train.kernels: auto takes plain torch there; kernels need device: cuda and "
        "pip install 'saectl[gpu]'",
    )


def _obstacle(device: torch.device) -> str | None:
    """Why no kernel can run there, whatever is installed."""
    if device.type != "cuda":
        if os.environ.get("TRITON_INTERPRET") == "1":
            return None
        return "kernels need a CUDA device, or Triton's interpreter (TRITON_INTERPRET=1)"
    if torch.version.hip is None:
        found = torch.cuda.get_device_capability(device)
        if found < CAPABILITY:
            return "the GPU's compute capability is {}.{}, and Triton needs {}.{}".format(
                *found, *CAPABILITY
            )
    return None
