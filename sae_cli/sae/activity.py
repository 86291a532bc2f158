"""Which latents are active, where their number is not fixed: found while the product is in cache.

ReLU and JumpReLU begin with a large share of latents active, where dense products are fastest, and
end with few, where products over active latents alone are. The first rows of a batch decide which
a step uses. Both are the same sums in another order, so the choice moves last bits only, and it is
a function of the weights and the batch, so a resumed run makes the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_cli.sae.product import chunk_rows, linear

SPARSE_BELOW = 1 / 16
"""Share of entries up to which products over them alone are made. Measured (d=1024, d_sae=16384,
B=1024, one core), a JumpReLU step takes 2.4 s dense, and 1.4, 1.0, 0.68 and 0.46 s sparse at shares
of 0.1, 0.05, 0.02 and 0.001, with 0.37 s for the encoder's product in each. Above this share an
entry's indices (about 60 bytes) would take more memory than dense products do."""
DENSE_ROWS = 512
"""Rows of a batch that dense products take at a time on a CPU, so that memory does not grow with
the batch."""
PROBE_ROWS = 64
"""The first rows, which decide."""
WORD = 8
"""Booleans that are looked at as one integer, because most of them are false."""


@dataclass(frozen=True)
class Entries:
    """Entries of a matrix `[B, d_sae]`, sorted by row, then latent."""

    rows: Tensor
    latents: Tensor
    values: Tensor
    """[n]"""

    def where(self, keep: Tensor) -> Entries:
        """Those with a true `keep [n]`."""
        return Entries(self.rows[keep], self.latents[keep], self.values[keep])


def entries_above(
    z: Tensor, enc: Tensor, b_enc: Tensor, floor: Tensor, most: float
) -> Entries | None:
    """All pre-activations z enc^T + b_enc above `floor` (`[d_sae]` or 0-d), for `z [B, d_in]`.

    None where dense products are faster: when more than the share `most` of those of the first
    rows are, and on a GPU, where to know their number would stop the device.
    """
    d_sae = enc.shape[0]
    if z.device.type != "cpu" or d_sae % WORD:
        return None
    first = linear(z[:PROBE_ROWS], enc, b_enc) > floor
    if int(first.sum()) > most * first.numel():
        return None
    found: list[Entries] = []
    size = chunk_rows(d_sae, z.element_size(), z.device)
    for number, rows in enumerate(torch.split(z, size)):
        pre = linear(rows, enc, b_enc)
        places = _true_places(pre > floor)
        found.append(Entries(places // d_sae + number * size, places % d_sae, pre.view(-1)[places]))
    return Entries(
        torch.cat([part.rows for part in found]),
        torch.cat([part.latents for part in found]),
        torch.cat([part.values for part in found]),
    )


def dense_parts(z: Tensor) -> Iterator[Tensor]:
    """Rows of `z [B, d_in]` that dense products take at a time; all of them on a GPU."""
    rows = DENSE_ROWS if z.device.type == "cpu" else max(1, z.shape[0])
    return iter(torch.split(z, rows))


def _true_places(mask: Tensor) -> Tensor:
    """Flat places of the true entries of `mask`, in order."""
    words = mask.view(torch.int64).flatten().nonzero().flatten()
    word, within = mask.view(-1, WORD)[words].nonzero(as_tuple=True)
    return words[word] * WORD + within
