"""What makes a step's selections, its products over active latents and Adam's pass: plain torch.

The trainer chooses one of these, once (`kernels.choice`), and hands it to its form. The other is
`kernels.backend`, with the same results in another order of summation.
"""

from __future__ import annotations

from torch import Tensor

from sae_cli.sae import batch_cut, optimizer, ragged, selection, sparse

GUESS = 0.9
"""Share of the last batch's cut above which the next one's is looked for."""


class Backend:
    """Plain torch, on every device."""

    name = "torch"
    Active: type[sparse.Active] = sparse.Active
    Ragged: type[ragged.Ragged] = ragged.Ragged
    Adam: type[optimizer.Adam] = optimizer.Adam

    def top_k(self, pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See `selection.top_k`; the order of a row's entries is not promised."""
        return selection.top_k(pre, k)

    def encode_top_k(
        self, z: Tensor, enc: Tensor, b_enc: Tensor, k: int, *, bfloat16: bool, margin: int
    ) -> selection.Chosen:
        """See `selection.encode_top_k`."""
        return selection.encode_top_k(z, enc, b_enc, k, bfloat16=bfloat16, margin=margin)

    def batch_top_k(
        self, z: Tensor, enc: Tensor, b_enc: Tensor, k: int, last: Tensor
    ) -> tuple[ragged.Ragged, Tensor]:
        """The B * k largest positive pre-activations of `z [B, d_in]`, and the smallest of them
        (0-d; zero where fewer are positive). `last` (0-d) is what that was a batch before."""
        guess = GUESS * float(last)
        kept = batch_cut.batch_top_k(z, enc, b_enc, k * z.shape[0], guess)
        entries = (kept.rows, kept.latents, kept.values)
        return self.Ragged(*entries, z.shape[0], enc.shape[0]), kept.cut


TORCH = Backend()
