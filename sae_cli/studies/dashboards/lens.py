"""What the weights alone say of features: logits they move, and the features most like them.

`lens_v1`: for a decoder row d, written into the residual stream, W_U (g * c(d)): W_U the
unembedding, g the final norm's own scale for each dimension, c the subtraction of d's mean over
dimensions where that norm subtracts one (LayerNorm), else nothing. It is the direct path alone, up
to the scale that the norm divides by, which depends on the token: the order of tokens and the sign
are meant, not the unit. Layers behind the site, and norms that a part's output passes, are left
out. Rows of `attn_z` go through the attention's output projection first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sae_cli.lm.anatomy import anatomy, width
from sae_cli.sae.base import SAE
from sae_cli.store.dashboards import Ranked

ROWS = 256
"""Features whose products with all tokens, or all features, are in memory at a time."""
NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm")
Leave = Callable[[str], None]


def lens(
    sae: SAE, model: PreTrainedModel, layer: int, site: str, n: int, leave: Leave
) -> tuple[Ranked, Ranked] | str:
    """The `n` tokens whose logits each feature raises most, and lowers most; or why there are none.
    `site` is what the decoder writes to."""
    if site == "mlp_in":
        return "its decoder rows stand before an MLP, not in the residual stream"
    rows = sae.W_dec
    if site == "attn_z":
        projection = anatomy(model, layer).projection
        assert projection is not None
        rows = _linear(projection, rows)
    head = model.get_output_embeddings()
    scale = _final_scale(model)
    if rows.shape[1] != width(model) or not isinstance(head, nn.Module) or scale is None:
        return "the model's unembedding or its final norm was not recognised"
    gain, centred = scale
    weight = head.weight.to(sae.W_dec.device, torch.float32)
    assert isinstance(weight, Tensor)
    n = min(n, len(weight))
    up, down = list[tuple[Tensor, Tensor]](), list[tuple[Tensor, Tensor]]()
    for part in torch.split(rows.float(), ROWS):
        leave("reading weights")
        if centred:
            part = part - part.mean(1, keepdim=True)
        logits = (part * gain.to(part)) @ weight.T
        up.append(_best(logits, n, largest=True))
        down.append(_best(logits, n, largest=False))
    return _ranked(up), _ranked(down)


def neighbours(sae: SAE, n: int, leave: Leave) -> Ranked:
    """The `n` other features with the largest cosine between decoder rows, `decoder_cosine_v1`."""
    rows = nn.functional.normalize(sae.W_dec.float(), dim=1)
    n = min(n, len(rows) - 1)
    found = list[tuple[Tensor, Tensor]]()
    for start in range(0, len(rows), ROWS):
        leave("comparing features")
        cosines = rows[start : start + ROWS] @ rows.T
        at = torch.arange(len(cosines), device=rows.device)
        cosines[at, start + at] = -torch.inf
        found.append(_best(cosines, n, largest=True))
    return _ranked(found)


def _best(scores: Tensor, n: int, *, largest: bool) -> tuple[Tensor, Tensor]:
    values, ids = scores.topk(n, dim=1, largest=largest)
    return values, ids


def _ranked(parts: list[tuple[Tensor, Tensor]]) -> Ranked:
    values, ids = (torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))
    return Ranked(ids.astype(np.int32), values.astype(np.float32))


def _linear(projection: nn.Module, rows: Tensor) -> Tensor:
    """Rows through a linear map, without its bias."""
    weight = next(iter(projection.parameters()))
    with torch.no_grad():
        zero = projection(torch.zeros(1, rows.shape[1], dtype=weight.dtype, device=weight.device))
        out: Tensor = projection(rows.to(weight)) - zero
    return out.to(rows)


def _final_scale(model: PreTrainedModel) -> tuple[Tensor, bool] | None:
    """The final norm's scale [d], and whether it subtracts means, by what it makes of two inputs of
    mean 0 and size 1: whatever its kind, it is that input times the scale, plus a bias."""
    body = model.base_model
    found = next((getattr(body, n) for n in NORMS if isinstance(getattr(body, n, None), nn.Module)),
                 None)  # fmt: skip
    d = width(model)
    if found is None or d % 2:
        return None
    weight = next(iter(found.parameters()), None)
    if weight is None:
        return None
    signs = torch.ones(d, dtype=weight.dtype, device=weight.device)
    signs[1::2] = -1
    ones = torch.ones_like(signs)
    with torch.no_grad():
        out = found(torch.stack([signs, -signs, ones, -ones])[None])[0].float()
    gain = (out[0] - out[1]) / 2 * signs.float()
    centred = bool((out[2] - out[3]).abs().max() < 1e-3 * gain.abs().max())
    return gain, centred
