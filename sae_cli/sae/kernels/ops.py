"""Which operations a tensor gets: the kernels where they can run, plain torch elsewhere."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sae_cli.sae.kernels import usable
from sae_cli.sae.kernels.lists import Gradients, Kept, Lists


class Ops(Protocol):
    """The operations of a training step. `fused` and `plain` have them, with the same results."""

    def top_k(self, pre: Tensor, k: int) -> tuple[Tensor, Tensor]: ...

    def batch_top_k(self, pre: Tensor, k: int) -> Kept: ...

    def bags(
        self,
        weights: Tensor,
        members: Tensor,
        ends: Tensor,
        table: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor: ...

    def dots(
        self, left: Tensor, right: Tensor, lefts: Tensor, rights: Tensor, ends: Tensor
    ) -> Tensor: ...

    def backward(
        self,
        values: Tensor,
        lists: Lists,
        grad: Tensor,
        z: Tensor,
        W_dec: Tensor,
        *,
        tangent: bool = False,
    ) -> Gradients: ...

    def adam(
        self,
        param: Tensor,
        grad: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        step: Tensor,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float = 1e-8,
        shrink: Tensor | None = None,
        skip: Tensor | None = None,
        unit: bool = False,
        seed: int = 0,
        copy: Tensor | None = None,
    ) -> None: ...


def ops_for(tensor: Tensor) -> Ops:
    """The operations that fit `tensor`: `fused` where `usable` says so, otherwise `plain`."""
    if usable(tensor):
        from sae_cli.sae.kernels import fused

        return fused
    from sae_cli.sae.kernels import plain

    return plain
