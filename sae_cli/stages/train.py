"""Stored activations to trained SAEs: those of one array in one pass (`grid`). An SAE that another
project trained is read instead (`imported`).

The order of the data is a function of (seed, position), and a checkpoint holds everything else,
so a run that was killed and resumed ends with the same bits as one that was not. The SAE is
written folded: raw activations in, raw activations out, unit-norm decoder rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from sae_cli import __version__
from sae_cli.lm.device import kind_of
from sae_cli.lm.names import hook_name, model_name
from sae_cli.sae.base import SAE
from sae_cli.spec.base import identity
from sae_cli.spec.train_base import Parallel
from sae_cli.spec.work import CacheWork, ImportWork, TokensWork, TrainWork
from sae_cli.stages import imported
from sae_cli.stages.crew import assembled
from sae_cli.stages.grid import Grid, Source
from sae_cli.stages.grid_member import Member
from sae_cli.stages.task import Task
from sae_cli.store.acts.array import ActivationReader
from sae_cli.store.acts.paired import paired
from sae_cli.store.weights import CFG, WEIGHTS, config, save_sae


def run(tasks: Sequence[Task]) -> None:
    """Train the SAEs of one array, or the transcoders of a pair; those that share an order read it
    once.

    Raises StoreError when the array can't be read or a checkpoint not be written, Interrupted when
    asked to stop. What ends one SAE alone (NaN or Inf, a checkpoint that is not its own) fails its
    task.
    """
    others = [task for task in tasks if isinstance(task.work, ImportWork)]
    imported.run(others)
    tasks = [task for task in tasks if task not in others]
    if not tasks:
        return
    source, target = _sources(tasks)
    orders: dict[tuple[int, int, Parallel], list[Task]] = {}
    for task in tasks:
        assert isinstance(task.work, TrainWork)
        spec = task.work.train
        order = (spec.order_seed, spec.shuffle_tokens, spec.parallel)
        orders.setdefault(order, []).append(task)

    def finish(member: Member, sae: SAE, device: torch.device) -> None:
        task = member.task
        attrs = source.reader.attrs
        out = None if target is None else str(target.reader.attrs["module"])
        made = {"kernels": member.trainer.backend.name, **spread(task)}
        cfg = describe(task, sae, int(attrs["context"]), (str(attrs["module"]), out), made)
        save_sae(task.out, sae.tensors(), cfg)
        summary = {
            "steps": member.steps,
            "tokens": member.trainer.tokens,
            "threads": torch.get_num_threads(),  # the order of sums, and so last bits, may follow
            "device": kind_of(device),
        }
        task.finish([WEIGHTS, CFG], summary | made)

    for (seed, pool, parallel), group in orders.items():
        with assembled(group, parallel) as (device, mesh):
            Grid(
                group, source, device,
                target=target, order=(seed, pool), finish=partial(finish, device=device), mesh=mesh,
            ).run()  # fmt: skip


def _sources(tasks: Sequence[Task]) -> tuple[Source, Source | None]:
    """The array that all tasks read and, of transcoders, the one that they predict."""
    ((first, second),) = {
        (task.deps["cache"].path, task.deps["target"].path if "target" in task.deps else None)
        for task in tasks
    }
    if second is None:
        reader = ActivationReader(first)
        return Source(reader, reader.stats()), None
    read, predicted = paired(first, second)
    return Source(read, read.stats()), Source(predicted, predicted.stats())


def spread(task: Task) -> dict[str, Any]:
    """What a record says of several processes: no part of any key. Nothing of a single one."""
    assert isinstance(task.work, TrainWork)
    parallel = task.work.train.parallel
    if parallel.processes == 1:
        return {}
    return {"parallel": {**parallel.model_dump(), "processes": parallel.processes}}


def describe(
    task: Task,
    sae: SAE,
    context: int,
    modules: tuple[str, str | None],
    made: dict[str, Any],
) -> dict[str, Any]:
    """What the SAE's folder says of itself: cfg.json, with our record of where it comes from and
    how it was `made`. `modules` are the one that is read and the one that a transcoder predicts."""
    target = task.deps["target"].work if "target" in task.deps else None
    assert target is None or isinstance(target, CacheWork)
    cache, tokens, work = task.deps["cache"].work, task.deps["tokens"].work, task.work
    assert isinstance(cache, CacheWork) and isinstance(tokens, TokensWork)
    assert isinstance(work, TrainWork)
    return config(
        sae.tensors(),
        arch=sae.arch,
        k=sae.k,
        model_name=model_name(cache.model),
        hook_name=hook_name(cache.layer, cache.site),
        hf_hook_name=modules[0],
        hook_name_out=None if target is None else hook_name(target.layer, target.site),
        hf_hook_name_out=modules[1],
        context_size=context,
        provenance={
            "saectl": __version__,
            "keys": {"train": task.key, **{role: d.key for role, d in task.deps.items()}},
            "layer": cache.layer,
            "site": cache.site,
            **({} if target is None else {"out_site": target.site}),
            "model": identity(cache.model),
            "data": identity(tokens.data),
            "cache": identity(cache.cache),
            "mask": identity(cache.mask),
            "train": identity(work.train),
            **made,
        },
    )
