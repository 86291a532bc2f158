"""One forward feeds every tap, and stops as soon as the last one has fired.

Nothing behind the last tap runs: no later layer, no final norm, no logits. Taps don't see each
other: each result is a copy made the moment its module is passed, so that a list of taps gives
bit for bit what each tap gives alone. It writes nothing and keeps no key/value cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sae_cli.lm.sites import Tap
from sae_cli.lm.tensors import get_input, get_output


class _AllFired(Exception):
    """Unwinds the forward once every tap has its tensor."""


def capture(model: PreTrainedModel, blocks: Tensor, taps: Sequence[Tap]) -> list[Tensor]:
    """Activations `[B, C, tap.dim]` for each tap, in order, in the model's dtype and device.

    `blocks` is int64 `[B, C]` of full contexts: no padding and plain causal attention, so that
    documents packed into one block see those before them, as in the model's own training.
    The result is made in inference mode and can't take part in autograd.
    """
    assert not model.training, "capture needs model.eval()"
    found: list[Tensor | None] = [None] * len(taps)
    missing = len(taps)

    def keep(index: int, tensor: Tensor) -> None:
        nonlocal missing
        assert tensor.shape == (*blocks.shape, taps[index].dim), taps[index].name
        assert found[index] is None, f"{taps[index].name} ran twice in one forward"
        found[index] = tensor.detach().clone()
        missing -= 1
        if missing == 0:
            raise _AllFired

    if not taps:
        return []
    with torch.inference_mode(), ExitStack() as hooks:
        for index, tap in enumerate(taps):
            hooks.callback(_listen(tap, index, keep))
        with suppress(_AllFired):
            model(input_ids=blocks.to(model.device), use_cache=False)
    done = [tensor for tensor in found if tensor is not None]
    assert len(done) == len(taps), "a tapped module never ran"
    return done


def _listen(tap: Tap, index: int, keep: Callable[[int, Tensor], None]) -> Callable[[], None]:
    """Hook `tap`; the result removes the hook."""
    if tap.where == "input":

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(index, get_input(args, kwargs))

        return tap.module.register_forward_pre_hook(before, with_kwargs=True).remove

    def after(_: Any, __: Any, output: Any) -> None:
        keep(index, get_output(output))

    return tap.module.register_forward_hook(after).remove
