"""Where the parts of a transformer layer are, found by structure and by the names in use.

Reads modules and config only; nothing runs. It knows four kinds of residual layers: norms before
attention and MLP (Llama, Qwen, GPT-2), norms on both sides (Gemma 2, GLM-4), norms after only
(OLMo 2), and attention beside the MLP (GPT-NeoX, GPT-J, Phi). What it can't recognise it refuses;
`check.check_layer` then verifies with numbers what was recognised.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sae_cli.errors import ModelError

_ATTENTION = ("self_attn", "attn", "attention", "self_attention", "linear_attn")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_PROJECTION = ("o_proj", "c_proj", "out_proj", "dense", "wo")
_BEFORE_MLP = ("pre_feedforward_layernorm", "pre_mlp_layernorm")
_BETWEEN = ("post_attention_layernorm", "ln_2", "norm_2", "ffn_norm")
_AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")


@dataclass(frozen=True)
class Anatomy:
    """The parts of one layer; None where the architecture has no such part."""

    layer: nn.Module
    attention: nn.Module
    projection: nn.Module | None
    """W_O, the attention's output projection."""
    attention_norm: nn.Module | None
    """A norm on the attention's output, before it is added to the residual stream."""
    mlp: nn.Module
    mlp_input_norm: nn.Module | None
    """The norm whose input is the residual stream before the MLP."""
    mlp_norm: nn.Module | None
    """A norm on the MLP's output, before it is added to the residual stream."""
    parallel: bool
    """Attention and MLP read the same residual stream: there is no middle."""


def layer_count(model: PreTrainedModel) -> int:
    """Number of transformer layers."""
    return int(model.config.get_text_config().num_hidden_layers)


def width(model: PreTrainedModel) -> int:
    """d_model, the dimension of the residual stream."""
    return int(model.config.get_text_config().hidden_size)


def anatomy(model: PreTrainedModel, layer: int) -> Anatomy:
    """The parts of layer `layer` (0-based). Raises ModelError: no such layer, or unknown build."""
    count = layer_count(model)
    if not 0 <= layer < count:
        raise ModelError(
            f"{_kind(model)} has layers 0 to {count - 1}, not {layer}",
            hint="name layers in that range; negative numbers are not counted from the end.",
        )
    block = _layers(model, count)[layer]
    attention, mlp = _child(block, _ATTENTION), _child(block, _MLP)
    assert attention is not None and mlp is not None
    before, after = _child(block, _BEFORE_MLP), _child(block, _AFTER_MLP)
    on_attention = _child(block, ("post_self_attn_layernorm",))
    if before is not None:
        on_attention = on_attention or _child(block, ("post_attention_layernorm",))
    elif after is None or on_attention is not None:
        before = _child(block, _BETWEEN)
    else:
        on_attention = _child(block, ("post_attention_layernorm",))
    config = model.config.get_text_config()
    flags = ("use_parallel_residual", "parallel_attn")
    says_parallel = any(getattr(config, flag, False) for flag in flags)
    return Anatomy(
        layer=block,
        attention=attention,
        projection=_projection(attention, width(model)),
        attention_norm=on_attention,
        mlp=mlp,
        mlp_input_norm=before,
        mlp_norm=after,
        parallel=says_parallel or (before is None and after is None),
    )


def projection_inputs(projection: nn.Module) -> int:
    """Input dimension of W_O: n_heads * head_dim."""
    return _shape(projection)[0]


def _layers(model: PreTrainedModel, count: int) -> nn.ModuleList:
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and all(_child(m, _ATTENTION) is not None and _child(m, _MLP) is not None for m in module)
    ]
    if len(found) != 1:
        raise ModelError(
            f"{_kind(model)} has {len(found) or 'no'} lists of {count} layers with an attention "
            "and an MLP part, and one is needed",
            hint="decoder models built like GPT-2, GPT-NeoX, Llama, Qwen or Gemma are understood.",
        )
    return found[0]


def _kind(model: PreTrainedModel) -> str:
    name = getattr(model.config, "name_or_path", "") or ""
    return f"{type(model).__name__} ({name})" if name else type(model).__name__


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    for name in names:
        child = getattr(module, name, None)
        if isinstance(child, nn.Module):
            return child
    return None


def _projection(attention: nn.Module, d_model: int) -> nn.Module | None:
    found = [
        module
        for name, module in attention.named_modules()
        if name.rpartition(".")[2] in _PROJECTION and _shape(module)[1] == d_model
    ]
    return found[0] if len(found) == 1 else None


def _shape(linear: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear map; zeros when it is none. Conv1D stores its transpose."""
    if isinstance(linear, Conv1D):
        return int(linear.weight.shape[0]), int(linear.weight.shape[1])
    return int(getattr(linear, "in_features", 0)), int(getattr(linear, "out_features", 0))
