"""The processes that train one SAE together, as its form and its trainer see them.

A mesh has `data` x `latent` processes. Each holds a shard of the latents (rows of `enc`, `dec`,
`b_enc`, thresholds, moments and counters) and works on a part of each batch; `b_dec` and numbers
are the same in all of them. This one is a single process, in which every operation is the identity
and costs nothing; `mesh_ranks` has the other. Processes must call these in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

REPLICATED = {"b_dec", "skip"}
"""The parameters that belong to no latent."""
_T = TypeVar("_T")


def is_split(name: str, tensor: Tensor) -> bool:
    """Whether each shard of latents has its own rows of a tensor of a trainer's state."""
    return tensor.dim() > 0 and REPLICATED.isdisjoint(name.split("."))


class Mesh:
    """A single process."""

    data = 1
    latent = 1
    data_rank = 0
    latent_rank = 0

    @property
    def processes(self) -> int:
        """How many take part."""
        return self.data * self.latent

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.data_rank == 0 and self.latent_rank == 0

    def rows(self, z: Tensor) -> Tensor:
        """This process's part of a whole batch `z [B, ...]`."""
        assert z.shape[0] % self.data == 0, "a batch is cut into equal parts"
        size = z.shape[0] // self.data
        return z[self.data_rank * size :][:size]

    def own(self, name: str, whole: Tensor) -> Tensor:
        """This process's rows of a whole tensor of that name; all of it if it is not split."""
        if not is_split(name, whole):
            return whole
        size = whole.shape[0] // self.latent
        return whole[self.latent_rank * size :][:size]

    def whole_shape(self, name: str, own: Tensor) -> tuple[int, ...]:
        """The shape of the tensor of which this process has `own`."""
        shape = tuple(own.shape)
        return (shape[0] * self.latent, *shape[1:]) if is_split(name, own) else shape

    def first(self, width: int) -> int:
        """The number, among all latents, of the first of this process's `width`."""
        return self.latent_rank * width

    def once(self, tensor: Tensor) -> Tensor:
        """`tensor` in one shard of latents and zeros in the others: a term of a `sum_latent`."""
        return tensor if self.latent_rank == 0 else torch.zeros_like(tensor)

    def sum_data(self, tensor: Tensor) -> Tensor:
        """The sum over the parts of the batch; `tensor` may be written to, here and below."""
        return tensor

    def sum_latent(self, tensor: Tensor) -> Tensor:
        """The sum over the shards of latents."""
        return tensor

    def sum_all(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        return self.sum_data(self.sum_latent(tensor))

    def any_data(self, mask: Tensor) -> Tensor:
        """bool: true where it is true for some part of the batch."""
        return mask

    def any(self, flag: bool) -> bool:
        """Whether it is true in some process."""
        return flag

    def same(self, text: str) -> bool:
        """Whether all processes say the same."""
        return True

    def least(self, number: float) -> float:
        """The smallest that some process has."""
        return number

    def all_or_none(self, found: _T | None) -> _T | None:
        """`found`, unless some process has None."""
        return found

    def gather_latent(self, tensor: Tensor) -> Tensor:
        """`[B, n]` of each shard of latents side by side: `[B, latent * n]`."""
        return tensor

    def gather_all(self, tensor: Tensor) -> Tensor:
        """`[n]` of each process, one after the other; n may differ."""
        return tensor

    def whole(self, name: str, own: Tensor) -> Tensor | None:
        """The tensor of which each process has its rows: on the CPU, in the process that leads, and
        None in the others. A single process's tensor is given as it is."""
        return own

    def lead(self, action: Callable[[], None]) -> None:
        """Do something in the process that leads. An expected error is raised in all of them."""
        action()


SINGLE = Mesh()


def add_up(grads: dict[str, Tensor], mesh: Mesh) -> Tensor:
    """Sum gradients over the parts of the batch, in place; the norm of all of them, 0-d."""
    for name, grad in grads.items():
        grads[name] = mesh.sum_data(grad)
    norms = dict(zip(grads, torch._foreach_norm([*grads.values()]), strict=True))
    if mesh.latent > 1:
        split = [norm for name, norm in norms.items() if is_split(name, grads[name])]
        rest = [norm for name, norm in norms.items() if not is_split(name, grads[name])]
        squares = mesh.sum_latent(torch.stack(split).square().sum())
        return torch.sqrt(squares + torch.stack(rest).square().sum())
    norm: Tensor = torch.linalg.vector_norm(torch.stack([*norms.values()]))
    return norm
