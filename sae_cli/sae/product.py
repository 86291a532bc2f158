"""The one dense product of a step: activations times encoder rows, as fast as the machine has it.

On a CPU that is oneDNN's linear where torch has it (about 1.3 to 2 times MKL's here at these
shapes), and torch's own elsewhere. The choice hangs on the build and the number format alone, never
on a measurement, so that a resumed run takes the same one.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 2**30}
"""Bytes of a product that is consumed before the next is made: on a CPU, about what a cache holds.
Elsewhere few chunks, because a launch costs more than memory."""
FEWEST_ROWS = 128
"""Rows that a chunk has at least, so that the encoder is not read for next to nothing."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: `[B, n]` for `x [B, m]`, `weight [n, m]`, `bias [n]`, of one dtype."""
    if x.device.type == "cpu" and x.numel() and x.dtype in _onednn_dtypes():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return functional.linear(x, weight, bias)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32: CUDA, and CPUs with AVX512-BF16 or
    AMX. On others torch emulates them."""
    if device.type == "cpu":
        cpu = torch.cpu
        return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
    return device.type == "cuda"


def chunk_rows(n: int, element_size: int, device: torch.device) -> int:
    """Rows of a product with `n` columns that are made at once."""
    limit = CHUNK_BYTES.get(device.type, CHUNK_BYTES["cpu"])
    return max(FEWEST_ROWS, limit // max(1, n * element_size))


@cache
def _onednn_dtypes() -> tuple[torch.dtype, ...]:
    """Those that oneDNN multiplies here: bfloat16 only where the CPU has at least AVX512."""
    if not (torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return ()
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return (torch.float32,)
    return (torch.float32, torch.bfloat16)
