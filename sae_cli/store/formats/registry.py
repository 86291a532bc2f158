"""Which formats there are. The only place that knows all of them.

A format is a module: `refusal` says why it can't hold an SAE, `write` and `read` change
conventions, and `apply` is the peer's own formula on the peer's own files, so that what was written
can be compared with the SAE that it is to be, without the peer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from sae_cli.store.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    qwen_scope,
    saelens,
    sparsify,
)
from sae_cli.store.formats.coder import Coder


class Reader(Protocol):
    """A format on the way in."""

    def read(self, folder: Path, layer: int | None = None) -> Coder:
        """The SAE in `folder`, in our conventions; of `layer`, where a folder holds several."""


class Format(Reader, Protocol):
    """A format on the way in and out."""

    def refusal(self, coder: Coder) -> str | None:
        """Why the format can't hold `coder`; None if it can."""

    def write(self, coder: Coder, folder: Path) -> None:
        """Write `coder`, which is not refused."""

    def apply(self, folder: Path, x: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """The peer's latents `[n, d_sae]` and output `[n, d_out]` of `x [n, d_in]`."""


FORMATS: dict[str, Format] = {
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
    "qwen-scope": qwen_scope,
    "gemma-scope": gemma_scope,
    "circuit-tracer": circuit_tracer,
}
"""By the names that `release.formats` uses."""
READERS: dict[str, Reader] = {"saelens": saelens, **FORMATS}
"""What can be read; SAELens folders are written by `store.weights`."""
