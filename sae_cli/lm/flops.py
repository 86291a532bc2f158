"""How much arithmetic a forward is, and how much a device can do: for the share that is used.

Counted are the matrix products of dense transformer layers; norms, rotary embeddings and
activation functions are left out, as in every published MFU. It refuses to guess: None for a
mixture of experts, and for a device whose data sheet it does not know.
"""

from __future__ import annotations

import re

import torch
from torch import nn
from transformers import PreTrainedModel

from sae_cli.lm.anatomy import anatomy, projection_inputs

_PEAKS: tuple[tuple[str, dict[str, float]], ...] = (
    (r"H200 NVL", {"half": 835.5e12, "float32": 60e12}),
    (r"H200", {"half": 989.4e12, "float32": 67e12}),
    (r"H100 NVL", {"half": 835.5e12, "float32": 60e12}),
    (r"H100 PCIe", {"half": 756.5e12, "float32": 51.2e12}),
    (r"H100", {"half": 989.4e12, "float32": 67e12}),
    (r"A100", {"half": 312e12, "float32": 19.5e12}),
    (r"L4", {"half": 121e12, "float32": 30.3e12}),
    (r"A10", {"half": 125e12, "float32": 31.2e12}),
    (r"V100-PCIE", {"float16": 112e12, "float32": 14e12}),
    (r"V100", {"float16": 125e12, "float32": 15.7e12}),
    (r"RTX 4090(?! (D|Laptop))", {"half": 165.2e12, "float32": 82.6e12}),
    (r"RTX 3090(?! Ti)", {"half": 71e12, "float32": 35.6e12}),
)
"""Dense FLOP/s of NVIDIA's data sheets (GeForce: architecture papers), the more special name
first. `half` is float16 and bfloat16 on tensor cores with sums in float32, without sparsity;
float32 is not TF32, as PyTorch computes by default."""


def forward_flops(model: PreTrainedModel, layer: int, context: int) -> int | None:
    """FLOPs per token of a forward through layers 0 ... `layer` on blocks of `context` tokens.

    Per layer: 2 * (weights of its matrices) + 4 * (n_heads * head_dim) * (context + 1) / 2, which
    are the products q k^T and (softmax) v over the (context + 1) / 2 places that a token sees on
    average. Neither embedding nor logits. Weights may lie on any device, `meta` too. None where
    a layer holds experts or anything else that is not a plain matrix.
    """
    total = 0
    for number in range(layer + 1):
        parts = anatomy(model, number)
        weights = _matrix_weights(parts.layer)
        if weights is None or parts.projection is None:
            return None
        total += 2 * weights + 2 * projection_inputs(parts.projection) * (context + 1)
    return total


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak dense FLOP/s of `device` for matrix products in `dtype`; None if not known."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), dtype)


def peak_of(name: str, dtype: torch.dtype) -> float | None:
    """The same by a device's name, for example `NVIDIA H100 80GB HBM3`."""
    if " MIG " in name:  # a slice of the device
        return None
    for pattern, peaks in _PEAKS:
        if re.search(rf"\b{pattern}\b", name):
            exact = peaks.get(str(dtype).removeprefix("torch."))
            half = dtype in (torch.float16, torch.bfloat16)
            return exact if exact is not None or not half else peaks.get("half")
    return None


def _matrix_weights(layer: nn.Module) -> int | None:
    """Elements of the layer's matrices; None if its parameters are more than matrices, vectors."""
    if any(isinstance(part, nn.ModuleList) for part in layer.modules()):
        return None
    sizes = [parameter.shape for parameter in layer.parameters()]
    if any(len(shape) > 2 for shape in sizes):
        return None
    return sum(shape.numel() for shape in sizes if len(shape) == 2)
