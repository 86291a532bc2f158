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
    mean: Tensor, mean_square: float, *, center: bool = True, normalize: bool = True
) -> tuple[Tensor, float]:
    """The (mean, scale) to train with, from a site's stored statistics.

    `mean [d_in]` is E[x] and `mean_square` is E|x|^2, summed over dimensions. Returns the vector
    to subtract (float64) and the factor s with E|(x - vector) s|^2 = d_in; without `center` the
    vector is zero, without `normalize` the factor is 1.

    Raises TrainingError when the activations do not vary (or are not finite).
    """
    mean = mean.double()
    around_zero = float(mean.square().sum())
    variance = mean_square - around_zero
    # Float64 sums of millions of tokens leave a rest of this size where there is no variance.
    if not (math.isfinite(variance) and variance > 1e-12 * around_zero and variance > 0):
        raise TrainingError(
            f"the activations' variance is {variance:g}, so there is nothing to learn",
            hint="look at the cache's statistics and its mask",
        )
    scale = math.sqrt(mean.numel() / (variance if center else mean_square)) if normalize else 1.0
    return (mean if center else torch.zeros_like(mean)), scale


def fold(
    form: Scaled,
    mean: Tensor,
    scale: float,
    dtype: torch.dtype = torch.float32,
    target: tuple[Tensor, float] | None = None,
) -> SAE:
    """The SAE on raw activations that equals `form` on z = (x - mean) * scale.

    With n_i = |dec_i| / scale, the norm of a decoder row in raw units:

        W_enc_i = enc_i * scale * n_i           W_dec_i = dec_i / scale / n_i
        b_enc_i = (b_enc_i - enc_i . mean * scale) * n_i
        b_dec   = mean + b_dec / scale          threshold_i = threshold_i * n_i

    What a transcoder predicts has a mean m' and a scale s' of its own, `target`; they take the
    places of mean and scale in n_i, W_dec and b_dec, and

        W_skip  = skip * scale / s'             b_dec = m' + b_dec / s' - W_skip mean

    A latent whose decoder row is zero has no effect; it is stored as one that never fires, with
    an arbitrary unit row. Computed in float64 on the CPU, returned in `dtype`.
    """
    mean, enc, b_enc, b_dec = (
        t.to("cpu", torch.float64) for t in (mean, form.enc, form.b_enc, form.b_dec)
    )
    mean_out, scale_out = (mean, scale) if target is None else target
    mean_out = mean_out.to("cpu", torch.float64)
    dec = form.dec.to("cpu", torch.float64) / scale_out
    norms = torch.linalg.vector_norm(dec, dim=1)
    mute = norms == 0
    if form.arch == "topk" and norms[~mute].numel():
        spread = float(norms[~mute].max() / norms[~mute].min())
        assert spread < 1.0 + 1e-4, "top-k over rows of unequal norm would choose other latents"
    safe = torch.where(mute, 1.0, norms)
    rows = dec / safe[:, None]
    rows[mute, 0] = 1.0
    tensors = {
        "W_enc": (enc * (scale * norms)[:, None]).T,
        "W_dec": rows,
        "b_enc": (b_enc - scale * (enc @ mean)) * norms,
        "b_dec": mean_out + b_dec / scale_out,
    }
    if form.skip is not None:
        tensors["W_skip"] = form.skip.to("cpu", torch.float64) * (scale / scale_out)
        tensors["b_dec"] = tensors["b_dec"] - tensors["W_skip"] @ mean
    if form.threshold is not None:
        tensors["threshold"] = form.threshold.to("cpu", torch.float64) * norms
    return SAE.from_tensors(
        {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()},
        form.arch,
        form.k,
    )
