"""A mesh of processes on torch.distributed: NCCL between GPUs, gloo between CPUs.

Rank r of the world is part r // latent of the batch and shard r % latent of the latents, so shards,
which speak most, are neighbours. Reductions give the same bits in every process that takes part, so
what is replicated stays so. Flags and errors go between CPUs, where no GPU has to wait for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from sae_cli.errors import SaectlError, StoreError, TrainingError
from sae_cli.sae.mesh import Mesh, is_split

_T = TypeVar("_T")
_ERRORS: dict[str, type[SaectlError]] = {"StoreError": StoreError, "TrainingError": TrainingError}


class Ranks(Mesh):
    """All processes of torch.distributed's world, which must be there already and be that many."""

    def __init__(self, data: int, latent: int, device: torch.device) -> None:
        assert dist.get_world_size() == data * latent
        self.data, self.latent, self._device = data, latent, device
        self._mesh: DeviceMesh = init_device_mesh(
            device.type, (data, latent), mesh_dim_names=("data", "latent")
        )
        self.data_rank, self.latent_rank = self._mesh.get_coordinate() or (0, 0)
        self._groups = {name: self._mesh.get_group(name) for name in ("data", "latent")}

    def sum_data(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, "data", dist.ReduceOp.SUM)

    def sum_latent(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, "latent", dist.ReduceOp.SUM)

    def any_data(self, mask: Tensor) -> Tensor:
        return self._reduced(mask.to(torch.uint8), "data", dist.ReduceOp.MAX).bool()

    def any(self, flag: bool) -> bool:
        seen = torch.tensor([int(flag)])
        dist.all_reduce(seen, dist.ReduceOp.MAX)
        return bool(seen)

    def same(self, text: str) -> bool:
        return not self.any(announce(text) != text)

    def least(self, number: float) -> float:
        seen = torch.tensor([number], dtype=torch.float64)
        dist.all_reduce(seen, dist.ReduceOp.MIN)
        return float(seen)

    def all_or_none(self, found: _T | None) -> _T | None:
        return None if self.any(found is None) else found

    def gather_latent(self, tensor: Tensor) -> Tensor:
        if self.latent == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.latent)]
        dist.all_gather(parts, tensor.contiguous(), group=self._groups["latent"])
        return torch.cat(parts, 1)

    def gather_all(self, tensor: Tensor) -> Tensor:
        sizes = torch.zeros(self.processes, dtype=torch.int64)
        sizes[dist.get_rank()] = tensor.numel()
        dist.all_reduce(sizes)
        padded = tensor.new_zeros(max(1, int(sizes.max())))
        padded[: tensor.numel()] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.processes)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes.tolist(), strict=True)])

    def whole(self, name: str, own: Tensor) -> Tensor | None:
        if is_split(name, own):
            cut = DTensor.from_local(
                own.detach().to(self._device), self._mesh["latent"], [Shard(0)], run_check=False
            )
            own = cut.full_tensor()
        return own.detach().cpu() if self.leads else None

    def lead(self, action: Callable[[], None]) -> None:
        text = ""
        raised: SaectlError | OSError | None = None
        if self.leads:
            try:
                action()
            except (SaectlError, OSError) as error:
                raised = error
                what, hint = getattr(error, "what", str(error)), getattr(error, "hint", None)
                text = json.dumps([type(error).__name__, what, hint])
        text = announce(text)
        if raised is not None:
            raise raised
        if text:
            kind, what, hint = json.loads(text)
            raise _ERRORS.get(kind, StoreError)(what, hint=hint)

    def _reduced(self, tensor: Tensor, side: str, how: dist.ReduceOp.RedOpType) -> Tensor:
        if getattr(self, side) == 1:
            return tensor
        there = tensor.to(self._device).contiguous()
        dist.all_reduce(there, how, group=self._groups[side])
        return there.to(tensor.device)


def announce(text: str) -> str:
    """What rank 0 says, in every process."""
    size = torch.tensor([len(text.encode())])
    dist.broadcast(size, 0)
    letters = torch.zeros(int(size), dtype=torch.uint8)
    if dist.get_rank() == 0:
        letters = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else letters
    if letters.numel():
        dist.broadcast(letters, 0)
    return letters.numpy().tobytes().decode()
