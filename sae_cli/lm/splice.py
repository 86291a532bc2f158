"""A replacement for one site's activations, put back into the running forward.

The edit sees the site's tensor `[B, C, d]` and returns one of the same shape; everything behind
it runs as usual. An edit that returns its argument reproduces the clean logits bit for bit.
It refuses an edit that changes the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sae_cli.lm.compiled import never_compiled
from sae_cli.lm.device import input_device
from sae_cli.lm.sites import Tap, find_tap
from sae_cli.lm.tensors import get_input, get_output, set_input, set_output

Edit = Callable[[Tensor], Tensor]
"""Activations `[B, C, d]` of a site to their replacement, of the same shape."""


def forward_logits(
    model: PreTrainedModel, blocks: Tensor, *, tap: Tap | None = None, edit: Edit | None = None
) -> Tensor:
    """Logits, float32 `[B, C, V]`, for int64 `blocks` `[B, C]`; with `edit` applied at `tap`.

    The forward runs in the model's dtype and only its logits are widened.
    """
    assert (tap is None) == (edit is None), "tap and edit come together"
    assert not model.training, "splicing needs model.eval()"
    with torch.inference_mode(), ExitStack() as stack:
        if tap is not None and edit is not None:
            stack.enter_context(editing(model, tap, edit))
        logits: Tensor = model(input_ids=blocks.to(input_device(model)), use_cache=False).logits
    return logits.float()


def masked(edit: Edit, keep: Tensor) -> Edit:
    """`edit` only where `keep` (bool `[B, C]`) is true; elsewhere the originals, exactly."""

    def only_kept(x: Tensor) -> Tensor:
        assert keep.shape == x.shape[:-1], (keep.shape, x.shape)
        return torch.where(keep.to(x.device)[..., None], _applied(edit, x), x)

    return only_kept


@contextmanager
def editing(model: PreTrainedModel, tap: Tap, edit: Edit) -> Iterator[None]:
    """Every forward inside this context, generation included, has `edit` applied at `tap`."""
    with ExitStack() as hooks:
        if tap.site == "resid_mid":
            _edit_middle(model, tap, edit, hooks)
        elif tap.where == "input":

            def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                return set_input(args, kwargs, _applied(edit, get_input(args, kwargs)))

            hook = never_compiled(before, tap.module)
            handle = tap.module.register_forward_pre_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        else:

            def after(_: Any, __: Any, output: Any) -> Any:
                return set_output(output, _applied(edit, get_output(output)))

            hooks.callback(tap.module.register_forward_hook(after).remove)
        yield


def _edit_middle(model: PreTrainedModel, tap: Tap, edit: Edit, hooks: ExitStack) -> None:
    """The middle of a residual stream goes two ways, into the MLP and past it: edit both.

    The module at `tap` is only the way into the MLP, so the layer's output is formed again as
    edited middle + MLP output, which is the layer's own last addition.
    """
    mlp, layer = find_tap(model, tap.layer, "mlp_out"), find_tap(model, tap.layer, "resid_post")
    seen: dict[str, Tensor] = {}

    def into_mlp(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen["middle"] = _applied(edit, get_input(args, kwargs))
        return set_input(args, kwargs, seen["middle"])

    def out_of_mlp(_: Any, __: Any, output: Any) -> None:
        seen["mlp"] = get_output(output)

    def out_of_layer(_: Any, __: Any, output: Any) -> Any:
        return set_output(output, seen.pop("middle") + seen.pop("mlp"))

    hooks.callback(tap.module.register_forward_pre_hook(into_mlp, with_kwargs=True).remove)
    hooks.callback(mlp.module.register_forward_hook(out_of_mlp).remove)
    hooks.callback(layer.module.register_forward_hook(out_of_layer).remove)


def _applied(edit: Edit, x: Tensor) -> Tensor:
    new = edit(x)
    assert new.shape == x.shape, f"an edit turned {tuple(x.shape)} into {tuple(new.shape)}"
    return new.to(dtype=x.dtype, device=x.device)
