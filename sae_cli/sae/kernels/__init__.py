"""A training step's operations as Triton kernels, for GPUs.

Importing this package needs no Triton; `usable` says whether its kernels can run. `ops.ops_for`
gives the operations that fit a tensor, of these kernels or of plain torch, under the same names.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

_FORMATS = (torch.float32, torch.bfloat16, torch.float16)


def usable(tensor: Tensor) -> bool:
    """Whether the kernels can run where `tensor` is: Triton is installed, and it is on a GPU, or
    Triton's interpreter was switched on (TRITON_INTERPRET=1, before Triton is imported).

    False for float64: kernels compute in float32.
    """
    here = tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return here and tensor.dtype in _FORMATS and find_spec("triton") is not None
