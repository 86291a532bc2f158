"""A training's checkpoint: one safetensors file, replaced in one step, written without a copy.

The tensors go from where they are to the disk piece by piece, so a checkpoint of a large SAE needs
no second one in memory (`safetensors.torch.save` needs two). A process that is killed while it
writes leaves the old checkpoint and a temporary file, which the next one removes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained, sweep, sync_folder, write_all, write_temp

_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bool: "BOOL",
}
"""safetensors' names of dtypes, the widest first: the order in which tensors lie in the file, so
that each is aligned."""

_DAMAGE = (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError)
"""What reading a file of any content may raise: RecursionError and UnicodeDecodeError are kinds."""


def write_state(path: Path, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
    """Put a checkpoint at `path` in place of the one that is there. `scalars` is plain JSON.

    Raises StoreError when the disk refuses; the old one is then still there.
    """
    ranks = list(_NAMES)
    names = sorted(tensors, key=lambda name: (ranks.index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": {"state": json.dumps(dict(scalars))}}
    end = 0
    for name in names:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(exist_ok=True)
    sweep(path.parent, path.name)
    with explained(path):
        temp = write_temp(path, len(text).to_bytes(8, "little") + text, durable=False)
        try:
            with temp.open("ab", buffering=0) as file:
                for name in names:
                    _append(file.fileno(), tensors[name])
                os.fsync(file.fileno())
            temp.replace(path)
        except OSError:
            temp.unlink(missing_ok=True)  # half a checkpoint would keep a full disk full
            raise
        sync_folder(path.parent)


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint at `path`, its tensors on the CPU; None where there is none.

    Raises StoreError when the file is no checkpoint, is damaged or can't be read.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            scalars = json.loads((file.metadata() or {})["state"])
        if not isinstance(scalars, dict):
            raise ValueError(f"its scalars are a {type(scalars).__name__}")
        return load_file(path), scalars
    except _DAMAGE as error:
        raise StoreError(
            f"{path} is no training state of saectl, or is damaged: {error!r}",
            hint=f"delete {path} to train from the start",
        ) from error


def _append(handle: int, tensor: Tensor) -> None:
    """Write a tensor's bytes at the end of an open file."""
    flat = tensor.detach().cpu().contiguous().flatten()
    if flat.numel():
        write_all(handle, flat.view(torch.uint8).numpy().data)
