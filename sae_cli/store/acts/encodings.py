"""How rows of activations become columns of bytes, and numbers again.

The float encodings store the numbers themselves. `int8` stores a code of one byte for each number
and a bfloat16 scale for each block of 64 dimensions: half of bfloat16's bytes. It needs no
statistics first, and a few dimensions of extreme size cost only their own block its precision.

A bfloat16 is stored as its two bytes. zarr has no such number, so the metadata says float32 and
names two codecs that every zarr-python has, put together so that they shift bits and compute
nothing: any zarr reader sees the exact numbers.

What an encoding costs is measured (`squared_error`), never assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.acts.sums import rows_at_once

Encoding = Literal["float32", "bfloat16", "float16", "int8"]
NAMES: tuple[Encoding, ...] = get_args(Encoding)
BLOCK = 64
"""Dimensions that share a scale in int8; the last block of a row may be shorter."""
LARGEST = 127
"""Codes lie from -LARGEST to LARGEST."""
BFLOAT16_CODECS: tuple[Mapping[str, Any], ...] = (
    {
        "name": "numcodecs.fixedscaleoffset",
        # read second: takes those 32 bits for a float32 (x / 1 + -0.0 is x, also where x is -0.0)
        "configuration": {"offset": -0.0, "scale": 1, "dtype": "<f4", "astype": "<f4"},
    },
    {
        "name": "numcodecs.fixedscaleoffset",
        # read first: a 16-bit whole number becomes the upper half of a 32-bit one
        "configuration": {"offset": 0, "scale": 2.0**-16, "dtype": "<u4", "astype": "<u2"},
    },
)
"""zarr's array-to-array codecs between float32 and bfloat16's bits. For reading only: written
through them, numbers would be rounded to whole ones."""


class Stored(NamedTuple):
    """One column that an encoding needs."""

    name: str
    dtype: str
    """numpy's name of what lies on disk."""
    row_shape: tuple[int, ...]
    codecs: tuple[Mapping[str, Any], ...]
    """zarr's array-to-array codecs; () where the numbers are what lies on disk."""
    data_type: str | None
    """zarr's name of the numbers; None where they are what lies on disk."""


def named(name: str) -> Encoding:
    """The encoding of this name. Raises StoreError for a name that is none."""
    for known in NAMES:
        if name == known:
            return known
    raise StoreError(f"there is no encoding {name!r}; there are {', '.join(NAMES)}")


def columns(name: Encoding, d: int) -> tuple[Stored, ...]:
    """The columns of rows of `d` dimensions, `acts` first."""
    if name == "int8":
        scales = Stored("scales", "<u2", (-(-d // BLOCK),), BFLOAT16_CODECS, "float32")
        return (Stored("acts", "|i1", (d,), (), None), scales)
    if name == "bfloat16":
        return (Stored("acts", "<u2", (d,), BFLOAT16_CODECS, "float32"),)
    return (Stored("acts", "<f4" if name == "float32" else "<f2", (d,), (), None),)


def row_bytes(name: Encoding, d: int) -> int:
    """Bytes of a row on disk, over all columns."""
    return sum(np.dtype(c.dtype).itemsize * c.row_shape[0] for c in columns(name, d))


def encode(acts: Tensor, name: Encoding) -> dict[str, Tensor]:
    """Columns of rows `acts` [n, d] of any float dtype, on the same device, contiguous.

    Float encodings: `acts` in that dtype, rounded to nearest. int8: `acts` int8 [n, d] and `scales`
    bfloat16 [n, ceil(d / 64)], with scale = bfloat16(max |x| / 127) and code = x / scale, rounded
    to nearest (ties to even). A block of zeros, or of numbers below bfloat16's least, has scale 0
    and codes 0. One that holds NaN or Inf keeps no number: its codes are 0 and its scale is not
    finite, so all of it decodes to NaN.
    """
    acts = acts.detach()
    if name != "int8":
        return {"acts": acts.to(getattr(torch, name)).contiguous()}
    n, d = acts.shape
    codes = torch.empty(n, d, dtype=torch.int8, device=acts.device)
    scales = torch.empty(n, -(-d // BLOCK), dtype=torch.bfloat16, device=acts.device)
    size = rows_at_once(acts.device, acts.shape[1])
    x = torch.empty(min(n, size), d, device=acts.device)
    top, by = torch.empty_like(x), torch.empty(len(x), scales.shape[1], device=acts.device)
    for at in range(0, n, size):
        m = len(acts[at : at + size])
        x, top, by = x[:m], top[:m], by[:m]
        torch.abs(x.copy_(acts[at : at + m]), out=top)
        for into, block in _blocks(by, top):
            torch.amax(block, -1, out=into)
        scales[at : at + m] = by.div_(LARGEST)
        by.copy_(scales[at : at + m])
        sound = bool(by.isfinite().all())
        by.masked_fill_(by == 0, torch.inf)
        for scale, block in _blocks(by, x):
            block.div_(scale[..., None])
        x.round_().clamp_(-LARGEST, LARGEST)
        if not sound:
            x.nan_to_num_(0.0)
        codes[at : at + m] = x
    return {"acts": codes, "scales": scales}


def decode(columns: Mapping[str, Tensor], name: Encoding, out: Tensor | None = None) -> Tensor:
    """Rows float32 [n, d] of `columns`, on their device; exactly what is stored.

    Written into `out` (any strides) where it is given; else the result may share its memory with
    a float32 column.
    """
    acts = columns["acts"]
    if name != "int8":
        return acts.float() if out is None else out.copy_(acts)
    if out is None:
        out = torch.empty(acts.shape, device=acts.device)
    out.copy_(acts)
    for scale, block in _blocks(columns["scales"].float(), out):
        block.mul_(scale[..., None])
    return out


def squared_error(
    acts: Tensor,
    columns: Mapping[str, Tensor],
    name: Encoding,
    keep: NDArray[np.bool_] | None = None,
) -> float:
    """Sum over the `keep` [n] rows of |decode(columns) - acts|^2, in float64; exactly 0.0 where
    the encoding holds every number of `acts`' dtype.

    inf where a number does not fit (float16 ends at 65504).
    """
    if name != "int8":
        dtype: torch.dtype = getattr(torch, name)
        if torch.promote_types(dtype, acts.dtype) == dtype:
            return 0.0
    norms = torch.empty(len(acts), device=acts.device)
    size = rows_at_once(acts.device, acts.shape[1])
    buffer = torch.empty(min(len(acts), size), acts.shape[1], device=acts.device)
    for at in range(0, len(acts), size):
        part = acts[at : at + size]
        some = {column: values[at : at + size] for column, values in columns.items()}
        rows = decode(some, name, buffer[: len(part)]).sub_(part)
        torch.linalg.vector_norm(rows, dim=1, out=norms[at : at + size])
    found = norms.double().cpu().numpy()
    kept = found if keep is None else found[keep]
    return float(np.sum(kept * kept))


def to_disk(column: Tensor) -> NDArray[Any]:
    """What lies on disk of a column: without a copy where it is contiguous and on the host."""
    column = column.detach().cpu().contiguous()
    if column.dtype == torch.bfloat16:
        column = column.view(torch.uint16)
    found: NDArray[Any] = column.numpy()
    return found


def from_disk(array: NDArray[Any], column: str, name: Encoding) -> Tensor:
    """A column as `encode` made it, of what lies on disk: without a copy where `array` may be
    written to."""
    found = torch.from_numpy(array if array.flags.writeable else array.copy())
    return found.view(torch.bfloat16) if column == "scales" or name == "bfloat16" else found


def _blocks(scales: Tensor, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Views of scales [n, b] and blocks of rows [n, b, size]: the full ones, then the short one."""
    whole, rest = divmod(rows.shape[1], BLOCK)
    views = []
    if whole:
        full = rows[:, : whole * BLOCK].view(-1, whole, BLOCK)
        views.append((scales[:, :whole], full))
    if rest:
        views.append((scales[:, whole:], rows[:, None, whole * BLOCK :]))
    return views
