"""Why a token may not count, as bits, and which of these bits a spec listens to.

Reasons are facts and are stored beside the activations; `keep` is the policy. Packing sets
`SPECIAL`, `FIRST` and `ROLE`; the cache stage, which alone sees activations, sets `OUTLIER`.
Numpy only: readers need no torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sae_cli.spec.stages import MaskSpec

SPECIAL = 1
"""The token is one of the tokenizer's special tokens (end of text, chat markers)."""
FIRST = 2
"""The token stands in the first `mask.first_positions` places of its block."""
OUTLIER = 4
"""The activation's norm is over `mask.outlier_multiple` times the site's median."""
ROLE = 8
"""The token is of no message whose role `data.train_on` names: another role's, or the template's.
It is set only where a spec names roles, and is always heard."""
PACKED: dict[str, int] = {"special": SPECIAL, "first": FIRST, "role": ROLE}
"""The reasons that packing sets, by the names that records give them."""


def keep(reasons: NDArray[np.uint8], mask: MaskSpec) -> NDArray[np.bool_]:
    """True where a token counts: no reason that `mask` listens to is set.

    `reasons` is uint8 of any shape, a sum of the reasons above; the result has its shape.
    """
    heard = ROLE
    if mask.special:
        heard |= SPECIAL
    if mask.first_positions:
        heard |= FIRST
    if mask.outlier_multiple is not None:
        heard |= OUTLIER
    counts: NDArray[np.bool_] = (reasons & np.uint8(heard)) == 0
    return counts
