"""A model with random weights, of the shape and scale of a trained one: a control for SAEs.

SAEs on randomly initialised transformers do well on many metrics (Heap et al. 2025,
arXiv 2501.17737), so a metric tells something of what a model has learned only as far as it parts
the two. As in that paper's "re-randomized" models, embeddings included, every parameter is replaced
by Gaussian noise with the parameter's own mean and standard deviation:

    W'_i = mean(W) + std(W) z_i,   z_i drawn from N(0, 1),   std over all entries, / n

That goes for vectors too: gains of norms keep their scale, a bias that is zero everywhere stays so,
and embeddings that are tied are drawn once and stay tied. Buffers (frequencies of rotary positions)
are no weights, and are kept. What the model has learned is gone, what it is like to run is not.

A tensor's draw hangs on the seed and the tensor's name alone; moments are summed in float64 in a
fixed order, so threads have no say. Weights lie in memory, not on a device, when this is done.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_AT_ONCE = 2**20


def draw_anew(model: nn.Module, seed: int) -> None:
    """Replace the model's floating-point parameters, in place. Those of no entry are passed by."""
    for name, parameter in model.named_parameters():  # one that is tied comes once
        if parameter.is_floating_point() and parameter.numel():
            _draw(parameter.data, _stream(seed, name))


def _stream(seed: int, name: str) -> np.random.Generator:
    word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.PCG64([seed, word]))


def _draw(tensor: Tensor, stream: np.random.Generator) -> None:
    mean, std = _moments(tensor)
    flat = tensor.view(-1) if tensor.is_contiguous() else tensor.contiguous().view(-1)
    for at in range(0, flat.numel(), _AT_ONCE):
        part = flat[at : at + _AT_ONCE]
        noise = stream.standard_normal(part.numel(), dtype=np.float64)
        part.copy_(torch.from_numpy(mean + std * noise))
    if not tensor.is_contiguous():
        tensor.copy_(flat.view(tensor.shape))


def _moments(tensor: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all entries, in float64."""
    flat, n = tensor.reshape(-1), tensor.numel()
    parts = range(0, n, _AT_ONCE)
    mean = sum(float(_read(flat, at).sum()) for at in parts) / n
    square = sum(float(np.square(_read(flat, at) - mean).sum()) for at in parts) / n
    return mean, float(np.sqrt(square))


def _read(flat: Tensor, at: int) -> NDArray[np.float64]:
    part: NDArray[np.float64] = flat[at : at + _AT_ONCE].double().numpy()
    return part
