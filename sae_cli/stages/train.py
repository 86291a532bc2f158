"""Stored activations to a trained SAE.

The order of the data is a function of (seed, position), and a checkpoint holds everything else,
so a run that was killed and resumed ends with the same bits as one that was not. The SAE is
written folded: raw activations in, raw activations out, unit-norm decoder rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save

from sae_cli import __version__
from sae_cli.errors import StoreError
from sae_cli.lm.device import pick_device
from sae_cli.lm.names import hook_name
from sae_cli.sae.base import SAE
from sae_cli.sae.fold import scaling
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.base import identity
from sae_cli.spec.stages import ModelSpec
from sae_cli.spec.work import CacheWork, TokensWork, TrainWork
from sae_cli.stages.curve import Curve
from sae_cli.stages.task import Task
from sae_cli.stages.track import tracker
from sae_cli.store.activations import ActivationReader
from sae_cli.store.atomic import write_bytes
from sae_cli.store.layout import StageDir
from sae_cli.store.shuffle import ShuffledReader
from sae_cli.store.weights import CFG, WEIGHTS, config, save_sae

STATE = "state.safetensors"
SHOWN = ("fvu", "l0", "dead_fraction")


def run(tasks: Sequence[Task]) -> None:
    """Train each task's SAE. Raises TrainingError on NaN or Inf, Interrupted when asked to stop."""
    for task in tasks:
        _train(task)


def _train(task: Task) -> None:
    work, source = task.work, task.deps["cache"]
    assert isinstance(work, TrainWork) and isinstance(source.work, CacheWork)
    spec = work.train
    reader = ActivationReader(source.path)
    stats = reader.stats()
    mean_square = stats.total_centred / stats.count + float(stats.mean.square().sum())
    mean, scale = scaling(stats.mean, mean_square, center=spec.center, normalize=spec.normalize)
    steps = math.ceil(spec.num_tokens / spec.batch_size)
    device = pick_device(task.device)
    trainer = Trainer(spec, reader.d, mean, scale, device, steps)
    _resume(trainer, task.scratch / STATE)
    task.report.begin(task.slug, steps, trainer.steps, "steps")
    with (
        ShuffledReader(
            reader, spec.shuffle_tokens, spec.seed, device=device, end=steps * spec.batch_size
        ) as data,
        Curve(StageDir(task.out).metrics, trainer.steps) as curve,
        tracker(work.wandb, task.key, task.slug, spec.model_dump(), task.out) as watch,
    ):
        while trainer.steps < steps:
            trainer.step(data.batch(trainer.steps * spec.batch_size, spec.batch_size))
            numbers: dict[str, float] = {}
            if trainer.steps % spec.log_every == 0 or trainer.steps == steps:
                numbers = trainer.log()
                curve.write(trainer.steps, trainer.tokens, numbers)
                watch.log(numbers, trainer.steps)
            task.report.at(trainer.steps, {n: v for n, v in numbers.items() if n in SHOWN})
            stopping = task.stop() and trainer.steps < steps
            if trainer.steps % spec.checkpoint_every == 0 or stopping:
                _checkpoint(trainer, task.scratch / STATE)
            if stopping:
                task.leave(f"step {trainer.steps:,} of {steps:,}")
    sae = trainer.finish()
    cfg = describe(task, sae, int(reader.attrs["context"]), str(reader.attrs["module"]))
    save_sae(task.out, sae.tensors(), cfg)
    task.finish([WEIGHTS, CFG], {"steps": steps, "tokens": trainer.tokens})


def describe(task: Task, sae: SAE, context: int, module: str) -> dict[str, Any]:
    """What the SAE's folder says of itself: cfg.json, with our record of where it comes from."""
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
        },
    )


def model_name(model: ModelSpec) -> str:
    """The name by which others know the model: hub id, else the folder's or preset's name."""
    return model.hf or model.builtin or Path(model.path or "").name


def _checkpoint(trainer: Trainer, path: Path) -> None:
    tensors, scalars = trainer.state_dict()
    path.parent.mkdir(exist_ok=True)
    data = save(
        {n: t.cpu().contiguous() for n, t in tensors.items()}, {"state": json.dumps(scalars)}
    )
    write_bytes(path, data)


def _resume(trainer: Trainer, path: Path) -> None:
    if not path.is_file():
        return
    with safe_open(path, framework="pt") as f:
        scalars = json.loads((f.metadata() or {}).get("state", "null"))
    if scalars is None:
        raise StoreError(f"{path} is no training state of saectl", hint=f"delete {path}")
    trainer.load_state_dict(load_file(path), scalars)
