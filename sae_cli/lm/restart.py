"""One clean forward of a batch, and edited ones that begin at the layer that they edit.

What lies before the edit is that of the clean forward, to the bit, so those layers are not run
again: they are stood in for by what the last of them gave. All else (embeddings, masks, positions,
the layers behind) is the model's own code on the same numbers. That no later layer looks past its
input at an earlier one is checked, not believed: the first forward of a run that begins at a layer
is made without an edit too, and has to give the clean logits bit for bit; where it does not, every
forward is a whole one. So results are those of whole forwards, always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sae_cli.lm.anatomy import anatomy, layer_count
from sae_cli.lm.compiled import never_compiled
from sae_cli.lm.sites import Tap
from sae_cli.lm.splice import Edit, forward_logits
from sae_cli.lm.tensors import get_input, get_output, set_output


@dataclass
class Made:
    """Forwards that were made, by what they were for, and how much of the model they ran."""

    clean: int = 0
    edited: int = 0
    checks: int = 0
    """Without an edit, to see that a layer can be begun at."""
    layers: int = 0
    """Layers that the edited ones ran."""
    layers_whole: int = 0
    """Layers that they would have run, had each begun at the first."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.clean + self.edited + self.checks


@dataclass
class Clean:
    """What an unchanged forward of a batch leaves behind."""

    blocks: Tensor
    """int64 `[B, C]`."""
    logits: Tensor
    """float32 `[B, C, V]`."""
    acts: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    """What each tap saw, by `spot`: `[B, C, tap.dim]`, in the model's dtype."""
    outputs: dict[int, Any] = field(default_factory=dict)
    """What a layer gave, of those behind which forwards begin."""


def spot(tap: Tap) -> tuple[str, str]:
    """Which tensor of the model a tap means; two sites can be one."""
    return tap.name, tap.where


def skipped(tap: Tap) -> int:
    """Layers whose output an edit at `tap` leaves as it was: all before its own, and, where it
    edits what the layer gives, that one too."""
    return tap.layer + 1 if tap.site == "resid_post" else tap.layer


class Forwards:
    """The forwards of one model, batch after batch."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.made = model, Made()
        self._layers = [anatomy(model, i).layer for i in range(layer_count(model))]
        self._can: dict[tuple[int, int], bool] = {}
        """Whether a forward of so long a context can begin behind so many layers, where that is
        known."""

    def clean(self, blocks: Tensor, taps: Sequence[Tap], edits: Sequence[Tap]) -> Clean:
        """The unchanged forward of int64 `blocks` `[B, C]`: its logits, what `taps` saw, and what
        forwards with an edit at `edits` begin with. Tensors are copies: models may write into
        their own later."""
        found = Clean(blocks, torch.empty(0))
        behind = {skipped(tap) for tap in edits}
        with ExitStack() as hooks:
            for tap in {spot(tap): tap for tap in taps}.values():
                hooks.callback(_listen(tap, found.acts))
            length = blocks.shape[1]
            for count in sorted(n for n in behind if n and self._can.get((length, n), True)):
                hooks.callback(_keep_output(self._layers[count - 1], count, found.outputs))
            found.logits = forward_logits(self.model, blocks)
        self.made.clean += 1
        return found

    def edited(self, clean: Clean, tap: Tap, edit: Edit) -> Tensor:
        """Logits, float32 `[B, C, V]`, of the batch of `clean` with `edit` applied at `tap`."""
        count = skipped(tap)
        known = clean.blocks.shape[1], count
        if count and known not in self._can:
            self._can[known] = self._begins_well(clean, count)
        begun = count if self._can.get(known) else 0
        with ExitStack() as stack:
            if begun:
                stack.enter_context(self._behind(clean, begun))
            logits = forward_logits(self.model, clean.blocks, tap=tap, edit=edit)
        self.made.edited += 1
        self.made.layers += len(self._layers) - begun
        self.made.layers_whole += len(self._layers)
        return logits

    def _begins_well(self, clean: Clean, count: int) -> bool:
        """Whether a forward behind `count` layers, with no edit, gives the clean logits' bits."""
        self.made.checks += 1
        try:
            with self._behind(clean, count):
                again = forward_logits(self.model, clean.blocks)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001  whatever a model misses of what was not run
            return False
        return torch.equal(again.view(torch.int32), clean.logits.view(torch.int32))

    @contextmanager
    def _behind(self, clean: Clean, count: int) -> Iterator[None]:
        """Forwards in this context take the first `count` layers' result from `clean`."""
        held = clean.outputs[count]

        def given(*_: Any, **__: Any) -> Any:
            return set_output(held, get_output(held).clone())

        def passed(*args: Any, **kwargs: Any) -> Any:
            return set_output(held, get_input(args, kwargs))

        with ExitStack() as undo:
            for number, layer in enumerate(self._layers[:count]):
                undo.enter_context(_replaced(layer, passed if number else given))
            yield


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")  # some loaders wrap a module's forward in one of its own
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.forward = own


def _listen(tap: Tap, found: dict[tuple[str, str], Tensor]) -> Callable[[], None]:
    """Hook `tap`; the result removes the hook."""
    if tap.where == "input":

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[spot(tap)] = get_input(args, kwargs).clone()

        hook = never_compiled(before, tap.module)
        return tap.module.register_forward_pre_hook(hook, with_kwargs=True).remove

    def after(_: Any, __: Any, output: Any) -> None:
        found[spot(tap)] = get_output(output).clone()

    return tap.module.register_forward_hook(after).remove


def _keep_output(layer: nn.Module, count: int, found: dict[int, Any]) -> Callable[[], None]:
    def after(_: Any, __: Any, output: Any) -> None:
        found[count] = set_output(output, get_output(output).clone())

    return layer.register_forward_hook(after).remove
