"""From scaled training units to the raw-activation SAE that is stored.

Training sees z = (x - mean) * scale; everybody afterwards sees x. The change of units is exact
algebra and is done once, in float64, so a stored SAE needs no side information. Decoder rows are
brought to unit norm on the way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_cli.errors import TrainingError
from sae_cli.sae.base import SAE
from sae_cli.sae.form import Scaled


def scaling(
    mean: Tensor, variance: float, *, center: bool = True, normalize: bool = True
) -> tuple[Tensor, float]:
    """The (mean, scale) to train with, from a site's stored statistics.

    `mean [d_in]` is E[x] and `variance` is E|x - mean|^2, summed over dimensions. Returns the
    vector to subtract (float64) and the factor s with E|(x - vector) s|^2 = d_in; without `center`
    the vector is zero, without `normalize` the factor is 1.

    Raises TrainingError when the activations do not vary (or are not finite).
    """
    mean = mean.double()
    if not (math.isfinite(variance) and variance > 0 and bool(mean.isfinite().all())):
        raise TrainingError(
            f"the activations' variance is {variance:g}, so there is nothing to learn",
            hint="look at the cache's statistics and its mask",
        )
    subtract = mean if center else torch.zeros_like(mean)
    spread = variance + float((mean - subtract).square().sum())
    return subtract, math.sqrt(mean.numel() / spread) if normalize else 1.0


def fold(form: Scaled, mean: Tensor, scale: float, dtype: torch.dtype = torch.float32) -> SAE:
    """The SAE on raw activations that equals `form` on z = (x - mean) * scale.

    With n_i = |dec_i| / scale, the norm of a decoder row in raw units:

        W_enc_i = enc_i * scale * n_i           W_dec_i = dec_i / scale / n_i
        b_enc_i = (b_enc_i - enc_i . mean * scale) * n_i
        b_dec   = mean + b_dec / scale          threshold_i = threshold_i * n_i

    A latent whose decoder row is zero has no effect; it is stored as one that never fires, with
    an arbitrary unit row. Computed in float64, returned in `dtype`, on the form's device.
    """
    mean = mean.double().to(form.dec.device)
    enc, dec, b_enc = form.enc.double(), form.dec.double() / scale, form.b_enc.double()
    norms = torch.linalg.vector_norm(dec, dim=1)
    mute = norms == 0
    safe = torch.where(mute, 1.0, norms)
    rows = dec / safe[:, None]
    rows[mute, 0] = 1.0
    tensors = {
        "W_enc": (enc * (scale * norms)[:, None]).T,
        "W_dec": rows,
        "b_enc": (b_enc - scale * (enc @ mean)) * norms,
        "b_dec": mean + form.b_dec.double() / scale,
    }
    if form.threshold is not None:
        tensors["threshold"] = form.threshold.double() * norms
    return SAE.from_tensors(
        {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()},
        form.arch,
        form.k,
    )
