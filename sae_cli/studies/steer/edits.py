"""What is done to the residual stream, as a change dx that is added: the SAE's error stays.

In raw activation units, with f the latents of x, d_i the decoder rows, unit norm:

    add     dx = v, the same everywhere
    clamp   dx = sum over i of (c_i - f_i) d_i
    scale   dx = sum over i of (m_i - 1) f_i d_i;  m_i = 0 ablates
    rebuild dx = x_hat - x: what the SAE's error alone does

Each may wait for a gate: whether a detector feature fires at the last token of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from blake3 import blake3
from torch import Tensor

from sae_cli.sae.base import SAE
from sae_cli.spec.steering import SteerAt

Change = Callable[[Tensor], Tensor]
"""dx, float32 [n, d], of activations x, float32 [n, d]."""


@dataclass(frozen=True)
class Push:
    """A change, and where it is made."""

    change: Change
    at: SteerAt = "last"
    gate: Callable[[Tensor], Tensor] | None = None
    """bool [n] of x [n, d] at the last token of n prompts: those that are changed. None: all."""
    told: str = ""
    """What tells it from other pushes by one SAE: a checksum of all its numbers."""


def nothing() -> Push:
    """No change at all."""
    return Push(torch.zeros_like, told="nothing")


def add(v: Tensor, at: SteerAt = "last") -> Push:
    """`v`, float32 [d]."""
    return Push(lambda x: v.to(x.device).expand_as(x), at, told=_told("add", v))


def clamp(sae: SAE, which: Sequence[int], to: Tensor, at: SteerAt = "last") -> Push:
    """The latents `which` at the values `to`, float32 [len(which)]."""
    told = _told("clamp", *which, to)
    return Push(_moved(sae, which, lambda f: to.to(f.device) - f), at, told=told)


def scale(sae: SAE, which: Sequence[int], by: Tensor, at: SteerAt = "last") -> Push:
    """The latents `which` times `by`, float32 [len(which)]."""
    told = _told("scale", *which, by)
    return Push(_moved(sae, which, lambda f: f * (by.to(f.device) - 1)), at, told=told)


def ablate(sae: SAE, which: Sequence[int], at: SteerAt = "last") -> Push:
    """The latents `which` at zero."""
    return scale(sae, which, torch.zeros(len(which)), at)


def _moved(sae: SAE, which: Sequence[int], by: Callable[[Tensor], Tensor]) -> Change:
    """Latents f, float32 [n, len(which)], changed by `by(f)`."""
    these = list(which)
    rows = sae.W_dec[these].float()

    def change(x: Tensor) -> Tensor:
        return (by(_encoded(sae, x)[:, these]) @ rows).to(x.device)

    return change


def _encoded(sae: SAE, x: Tensor) -> Tensor:
    """float32 [n, d_sae], on the SAE's device: a model may lie on several."""
    return sae.encode(x.to(sae.W_enc.device)).float()


def rebuild(sae: SAE, at: SteerAt = "last") -> Push:
    """The reconstruction in the place of x."""

    def change(x: Tensor) -> Tensor:
        return sae.decode(sae.encode(x.to(sae.W_enc.device))).float().to(x.device) - x

    return Push(change, at, told="rebuild")


def when(push: Push, sae: SAE, detector: int, above: float) -> Push:
    """`push`, for prompts at whose last token the latent `detector` is above a value."""
    return Push(
        push.change, push.at, lambda x: (_encoded(sae, x)[:, detector] > above).to(x.device),
        _told("when", push.told, detector, above),
    )  # fmt: skip


def _told(*parts: str | int | float | Tensor) -> str:
    """A checksum of what a push is made of."""
    rolled = blake3()
    for part in parts:
        plain = part.detach().cpu().double().tolist() if isinstance(part, Tensor) else part
        rolled.update(f"{plain!r} ".encode())
    return rolled.hexdigest()


class Applied:
    """The pushes of the rows of a batch, for `lm.splice.editing`: first the prompts, then one token
    after the other."""

    def __init__(self, pushes: Sequence[tuple[Push, int]]) -> None:
        """Each push, and how many rows in a row it is for."""
        self._pushes = pushes
        self._gates: list[Tensor | None] = []
        self._begun = False

    def __call__(self, x: Tensor) -> Tensor:
        """`x` [b, C, d], changed; in the model's dtype where it is not."""
        rows = torch.split(x, [count for _, count in self._pushes])
        if not self._begun:
            self._gates = [
                None if push.gate is None else push.gate(part[:, -1].float())
                for (push, _), part in zip(self._pushes, rows, strict=True)
            ]
        out = torch.cat([
            self._changed(push, gate, part)
            for (push, _), gate, part in zip(self._pushes, self._gates, rows, strict=True)
        ])  # fmt: skip
        self._begun = True
        return out

    def _changed(self, push: Push, gate: Tensor | None, x: Tensor) -> Tensor:
        if self._begun:
            here = slice(None) if push.at != "last" else slice(0, 0)
        elif push.at == "all":
            here = slice(1, None)  # never the first position
        else:
            here = slice(-1, None) if push.at == "last" else slice(0, 0)
        some = x[:, here].float()
        if not some.numel():
            return x
        dx = push.change(some.flatten(0, 1)).view_as(some)
        if gate is not None:
            dx = dx * gate[:, None, None]
        new = x.clone()
        new[:, here] = (some + dx).to(x.dtype)
        return new
