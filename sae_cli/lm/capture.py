"""One forward feeds every tap, and stops as soon as the last one has fired.

Nothing behind the last tap runs: no later layer, no final norm, no logits. Taps don't see each
other: a list of taps gives bit for bit what each tap gives alone. What a tap keeps is the model's
own tensor, not a copy. Only where the model writes into it later, which its version counter
tells, is the forward run again and that tap copied from then on. It writes nothing and keeps no
key/value cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sae_cli.lm.compiled import never_compiled
from sae_cli.lm.device import input_device
from sae_cli.lm.sites import Tap
from sae_cli.lm.tensors import get_input, get_output


class _AllFired(Exception):
    """Unwinds the forward once every tap has its tensor."""


class Capture:
    """The taps of one model, for forward after forward."""

    def __init__(self, model: PreTrainedModel, taps: Sequence[Tap]) -> None:
        assert not model.training, "capture needs model.eval()"
        self.model, self.taps = model, tuple(taps)
        self._copied: set[int] = set()
        """Taps whose tensor the model writes into after the tap has fired."""

    def __call__(self, blocks: Tensor) -> list[Tensor]:
        """Activations `[B, C, tap.dim]` for each tap, in order, in the model's dtype, each on the
        device where the model made it.

        `blocks` is int64 `[B, C]` of full contexts: no padding and plain causal attention, so that
        documents packed into one block see those before them, as in the model's own training.
        Results may share memory with one another (`resid_post` of a layer is `resid_pre` of the
        next): read them only. They carry no gradients.
        """
        if not self.taps:
            return []
        found, versions = self._forward(blocks)
        changed = {i for i, x in enumerate(found) if x._version != versions[i]}
        if changed:
            self._copied |= changed
            found, versions = self._forward(blocks)
        assert all(x._version == v for x, v in zip(found, versions, strict=True))
        return found

    def _forward(self, blocks: Tensor) -> tuple[list[Tensor], list[int]]:
        """What each tap saw, and the version of that tensor when it was seen."""
        found: list[Tensor | None] = [None] * len(self.taps)
        versions = [0] * len(self.taps)
        missing = len(self.taps)

        def keep(index: int, tensor: Tensor) -> None:
            nonlocal missing
            tap = self.taps[index]
            assert tensor.shape == (*blocks.shape, tap.dim), tap.name
            assert found[index] is None, f"{tap.name} ran twice in one forward"
            found[index] = kept = tensor.clone() if index in self._copied else tensor
            versions[index] = kept._version
            missing -= 1
            if missing == 0:
                raise _AllFired

        # not inference mode: its tensors have no versions
        with torch.no_grad(), ExitStack() as hooks:
            for index, tap in enumerate(self.taps):
                hooks.callback(_listen(tap, index, keep))
            with suppress(_AllFired):
                self.model(input_ids=blocks.to(input_device(self.model)), use_cache=False)
        done = [tensor for tensor in found if tensor is not None]
        assert len(done) == len(self.taps), "a tapped module never ran"
        return done, versions


def capture(model: PreTrainedModel, blocks: Tensor, taps: Sequence[Tap]) -> list[Tensor]:
    """The taps' activations for one forward; see `Capture`, which serves many."""
    return Capture(model, taps)(blocks)


def _listen(tap: Tap, index: int, keep: Callable[[int, Tensor], None]) -> Callable[[], None]:
    """Hook `tap`; the result removes the hook."""
    if tap.where == "input":

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(index, get_input(args, kwargs))

        hook = never_compiled(before, tap.module)
        return tap.module.register_forward_pre_hook(hook, with_kwargs=True).remove

    def after(_: Any, __: Any, output: Any) -> None:
        keep(index, get_output(output))

    return tap.module.register_forward_hook(after).remove
