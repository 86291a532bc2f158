"""Names and shapes of the tensors in a file, from its head alone: no torch, no weights read.

    .safetensors   a JSON header
    .npz           a zip of arrays, each with a header of its own
    .pt            a pickle, of which no class and no function is taken but the few that describe a
                   tensor; these are stand-ins, so that nothing the file names is ever run

A file that asks for anything else is refused: an SAE is tensors, and code in it is not wanted.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained

Shapes = dict[str, tuple[int, ...]]
LIMIT = 64 * 2**20
"""Bytes of a head that is believed."""


def shapes(path: Path) -> Shapes:
    """The tensors of a file by name. Raises StoreError when it is missing, damaged, or holds
    anything but tensors."""
    read = _READERS.get(path.suffix)
    if read is None:
        raise StoreError(f"{path} is no file of tensors: {', '.join(_READERS)} are")
    try:
        with explained(path, "read"), path.open("rb") as file:
            return read(file)
    except _Foreign as error:
        raise StoreError(
            f"{path} holds {error}, and an SAE is tensors alone: nothing in it was run",
            hint="ask its makers for safetensors, or save its state dict again yourself",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError,
            struct.error, zipfile.BadZipFile, pickle.UnpicklingError) as error:  # fmt: skip
        raise StoreError(f"{path} is damaged: {error}") from error


def _safetensors(file: BinaryIO) -> Shapes:
    (size,) = struct.unpack("<Q", file.read(8))
    if size > LIMIT:
        raise ValueError(f"a header of {size} bytes")
    head = json.loads(file.read(size))
    return {n: tuple(t["shape"]) for n, t in head.items() if n != "__metadata__"}


def _npz(file: BinaryIO) -> Shapes:
    from numpy.lib import format as npy  # numpy is not needed for other looks

    found: Shapes = {}
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                version = npy.read_magic(member)
                read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
                shape, _, dtype = read[version](member)
                if dtype.hasobject:
                    raise _Foreign("Python objects")
                found[name.removesuffix(".npy")] = tuple(shape)
    return found


class _Foreign(Exception):
    """A name that a file of tensors has no use for."""


class _Tensor(tuple[int, ...]):
    """The shape of a tensor, in its place."""


def _rebuilt(storage: object, offset: int, size: tuple[int, ...], *rest: object) -> _Tensor:
    return _Tensor(size)


def _parameter(data: _Tensor, *rest: object) -> _Tensor:
    return data


class _Head(pickle.Unpickler):
    """Reads a pickle of tensors; every other name in it ends the reading."""

    _KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch", "Size"): tuple,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return name
        if (module, name) not in self._KNOWN:
            raise _Foreign(f"{module}.{name}")
        return self._KNOWN[module, name]

    def persistent_load(self, pid: Any) -> None:
        return None


def _pt(file: BinaryIO) -> Shapes:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            if archive.getinfo(name).file_size > LIMIT:
                raise ValueError("a pickle without an end")
            found = _Head(io.BytesIO(archive.read(name))).load()
    else:  # before torch 1.6: magic number, version, machine, then the object
        file.seek(0)
        for _ in range(4):
            found = _Head(file).load()
    if not isinstance(found, dict):
        raise _Foreign(f"a {type(found).__name__}")
    for name, value in found.items():
        if not isinstance(value, _Tensor):
            raise _Foreign(f"{name}, a {type(value).__name__}")
    return {str(name): tuple(value) for name, value in found.items()}


_READERS: dict[str, Callable[[BinaryIO], Shapes]] = {
    ".safetensors": _safetensors, ".npz": _npz, ".pt": _pt,
}  # fmt: skip
