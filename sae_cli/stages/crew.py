"""The processes that torchrun started, and how they come to train together.

Rank 0 is the program: it plans, claims, captures, writes and speaks. The others wait for it to name
trainings, join in those, and end when it does. Orders are JSON. What ends one SAE ends it in all
processes alike; any other error may have reached one alone, so it ends them all, and no process
waits for one that is gone.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sae_cli.errors import (
    FAILED,
    Interrupted,
    ModelError,
    SaectlError,
    StoreError,
    UsageError,
)
from sae_cli.lm.device import pick_device
from sae_cli.sae.mesh import SINGLE, Mesh
from sae_cli.sae.mesh_ranks import Ranks, announce
from sae_cli.spec.train_base import Parallel
from sae_cli.spec.work import CacheWork, TokensWork, TrainWork, Work
from sae_cli.stages.task import Dep, Task

PATIENCE = timedelta(days=30)
"""How long a process waits for the others, which may be capturing; one that died is noticed."""
_WORKS: dict[str, type[Work]] = {each.__name__: each for each in (CacheWork, TokensWork, TrainWork)}


def join() -> bool:
    """Meet the other processes; whether this one is rank 0."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    return dist.get_rank() == 0


def dismiss(code: int) -> None:
    """Rank 0: send the others home, with this exit code."""
    if dist.is_initialized():
        announce(json.dumps({"end": code}))
        dist.destroy_process_group()


def follow(train: Callable[[Sequence[Task]], None], stop: Callable[[], bool]) -> int:
    """Another rank: `train` what rank 0 names until it ends; its exit code."""
    while True:
        order = json.loads(announce(""))
        if "end" in order:
            dist.destroy_process_group()
            return int(order["end"])
        try:
            train([_task(each, stop) for each in order["tasks"]])
        except Interrupted:
            continue
        except Exception as error:  # noqa: BLE001  rank 0 has met it, or must not wait for us
            told = str(error) if isinstance(error, SaectlError) else traceback.format_exc()
            print(f"rank {dist.get_rank()}: {told}", file=sys.stderr)  # noqa: T201
            return FAILED


@contextmanager
def assembled(tasks: Sequence[Task], parallel: Parallel) -> Iterator[tuple[torch.device, Mesh]]:
    """The device and the mesh of a training; a wide one has all other processes join.

    Raises UsageError when they are not as many as `parallel` asks for.
    """
    if parallel.processes == 1:
        yield pick_device(tasks[0].device), SINGLE
        return
    there = dist.get_world_size() if dist.is_initialized() else 1
    if there != parallel.processes:
        raise UsageError(
            f"parallel asks for {parallel.processes} processes, and there are {there}",
            hint=f"torchrun --nproc-per-node {parallel.processes} -m sae_cli train SPEC",
        )
    if dist.get_rank() == 0:
        announce(json.dumps({"tasks": [_order(task) for task in tasks]}))
    try:
        device = _own_device(tasks[0].device)
        yield device, Ranks(parallel.data, parallel.latent, device)
    except Interrupted:
        raise
    except BaseException as error:
        if dist.get_rank() == 0:
            dist.destroy_process_group()
        if _says_who_is_gone(error):
            raise StoreError(
                "another process of this training has ended",
                hint="its own message says why; the same command goes on from the last checkpoint",
            ) from error
        raise


def _says_who_is_gone(error: BaseException) -> bool:
    """Whether an error of torch.distributed means that a process can't be reached any more."""
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and "Connection" in str(error)
    )


def _own_device(name: str) -> torch.device:
    """cuda:LOCAL_RANK, or the CPU where there is no GPU or the spec says so."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if place >= there:
        raise ModelError(
            f"process {place} of this machine has no GPU of its own: there are {there}",
            hint="start as many processes as there are GPUs, or set device: cpu",
        )
    torch.cuda.set_device(place)
    return torch.device(f"cuda:{place}")


def _order(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "key": task.key,
        "slug": task.slug,
        "device": task.device,
        "out": str(task.out),
        "work": _plain(task.work),
        "deps": {
            role: {"work": _plain(d.work), "path": str(d.path), "key": d.key, "slug": d.slug}
            for role, d in task.deps.items()
        },
    }


def _plain(work: Work) -> list[Any]:
    return [type(work).__name__, work.model_dump(mode="json", exclude_unset=True)]


def _work(plain: Sequence[Any]) -> Work:
    return _WORKS[plain[0]].model_validate(plain[1])


def _task(order: Mapping[str, Any], stop: Callable[[], bool]) -> Task:
    """The task of a process that claims nothing, writes nothing and says nothing."""
    return Task(
        name=order["name"],
        key=order["key"],
        slug=order["slug"],
        work=_work(order["work"]),
        out=Path(order["out"]),
        deps={
            role: Dep(_work(d["work"]), Path(d["path"]), d["key"], d["slug"])
            for role, d in order["deps"].items()
        },
        report=_Mute(),
        device=order["device"],
        stop=stop,
        finish=lambda files, summary: None,
        part=lambda name: nullcontext(),
        whole=nullcontext,
        wait=lambda why: None,
        fail=lambda error: None,
    )


class _Mute:
    def begin(self, label: str, total: int, done: int, unit: str) -> None: ...

    def at(self, done: int, numbers: Mapping[str, float] | None = None) -> None: ...

    def note(self, text: str) -> None: ...
