"""The operations as Triton kernels. Importing this imports Triton."""

from __future__ import annotations

from sae_cli.sae.kernels.adam import adam
from sae_cli.sae.kernels.bags import bags
from sae_cli.sae.kernels.batch_top_k import batch_top_k
from sae_cli.sae.kernels.dots import dots
from sae_cli.sae.kernels.latents import backward
from sae_cli.sae.kernels.top_k import top_k

__all__ = ["adam", "backward", "bags", "batch_top_k", "dots", "top_k"]
