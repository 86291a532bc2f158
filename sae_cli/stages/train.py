"""Stored activations to trained SAEs: those of one array in one pass (`grid`).

The order of the data is a function of (seed, position), and a checkpoint holds everything else,
so a run that was killed and resumed ends with the same bits as one that was not. The SAE is
written folded: raw activations in, raw activations out, unit-norm decoder rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_cli import __version__
from sae_cli.lm.names import hook_name
from sae_cli.sae.base import SAE
from sae_cli.spec.base import identity
from sae_cli.spec.stages import ModelSpec
from sae_cli.spec.train_base import Parallel
from sae_cli.spec.work import CacheWork, TokensWork, TrainWork
from sae_cli.stages.crew import assembled
from sae_cli.stages.grid import Grid
from sae_cli.stages.grid_member import Member
from sae_cli.stages.task import Task
from sae_cli.store.acts.array import ActivationReader
from sae_cli.store.weights import CFG, WEIGHTS, config, save_sae


def run(tasks: Sequence[Task]) -> None:
    """Train the SAEs of one array; those that share an order read it once.

    Raises StoreError when the array can't be read or a checkpoint not be written, Interrupted when
    asked to stop. What ends one SAE alone (NaN or Inf, a checkpoint that is not its own) fails its
    task.
    """
    (source,) = {task.deps["cache"].path for task in tasks}
    reader = ActivationReader(source)
    stats = reader.stats()
    orders: dict[tuple[int, int, Parallel], list[Task]] = {}
    for task in tasks:
        assert isinstance(task.work, TrainWork)
        spec = task.work.train
        order = (spec.order_seed, spec.shuffle_tokens, spec.parallel)
        orders.setdefault(order, []).append(task)

    def finish(member: Member, sae: SAE) -> None:
        task = member.task
        made = {"kernels": member.trainer.backend.name, **spread(task)}
        where = (int(reader.attrs["context"]), str(reader.attrs["module"]))
        cfg = describe(task, sae, *where, made)
        save_sae(task.out, sae.tensors(), cfg)
        summary = {"steps": member.steps, "tokens": member.trainer.tokens}
        task.finish([WEIGHTS, CFG], summary | made)

    for (seed, pool, parallel), group in orders.items():
        with assembled(group, parallel) as (device, mesh):
            Grid(group, reader, stats, device, order=(seed, pool), finish=finish, mesh=mesh).run()


def spread(task: Task) -> dict[str, Any]:
    """What a record says of several processes: no part of any key. Nothing of a single one."""
    assert isinstance(task.work, TrainWork)
    parallel = task.work.train.parallel
    if parallel.processes == 1:
        return {}
    return {"parallel": {**parallel.model_dump(), "processes": parallel.processes}}


def describe(
    task: Task, sae: SAE, context: int, module: str, made: dict[str, Any]
) -> dict[str, Any]:
    """What the SAE's folder says of itself: cfg.json, with our record of where it comes from and
    how it was `made`."""
    cache, tokens, work = task.deps["cache"].work, task.deps["tokens"].work, task.work
    assert isinstance(cache, CacheWork) and isinstance(tokens, TokensWork)
    assert isinstance(work, TrainWork)
    return config(
        sae.tensors(),
        arch=sae.arch,
        k=sae.k,
        model_name=model_name(cache.model),
        hook_name=hook_name(cache.layer, cache.site),
        hf_hook_name=module,
        context_size=context,
        provenance={
            "saectl": __version__,
            "keys": {"train": task.key, **{role: d.key for role, d in task.deps.items()}},
            "layer": cache.layer,
            "site": cache.site,
            "model": identity(cache.model),
            "data": identity(tokens.data),
            "cache": identity(cache.cache),
            "mask": identity(cache.mask),
            "train": identity(work.train),
            **made,
        },
    )


def model_name(model: ModelSpec) -> str:
    """The name by which others know the model: hub id, else the folder's or preset's name."""
    return model.hf or model.builtin or Path(model.path or "").name
