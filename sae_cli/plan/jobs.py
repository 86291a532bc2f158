"""Stages to jobs: what shares a forward or a read is done in one.

A job is a list of stages of one kind that one process does together. Joining stages never changes
a result, only its cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sae_cli.plan.graph import Stage
from sae_cli.plan.sizes import disk_bytes
from sae_cli.spec.base import identity
from sae_cli.spec.work import CacheWork, EvalWork, StudyWork, TrainWork
from sae_cli.store.key import canonical

__all__ = ["Job", "coalesce", "disk_bytes"]


@dataclass(frozen=True)
class Job:
    """Stages that run together, in one process."""

    stages: tuple[Stage, ...]


def coalesce(stages: Sequence[Stage]) -> list[Job]:
    """Jobs for `stages`, in order.

    The sites of one model and text share their forwards, and so do the evaluations of its SAEs,
    wherever they read (the stage cuts them into rounds by memory), and each study of them. The
    trainings of one array share its read, where they share their order and their `parallel`:
    `fitted` then cuts them by memory.
    """
    groups: dict[str, list[Stage]] = {}
    for stage in stages:
        groups.setdefault(_shared(stage), []).append(stage)
    return [Job(tuple(group)) for group in groups.values()]


def _shared(stage: Stage) -> str:
    """A text that is equal for stages that can share their forwards, or their read."""
    work = stage.work
    if isinstance(work, CacheWork):
        parts = {"model": identity(work.model), "cache": identity(work.cache)}
        return canonical({"tokens": stage.deps["tokens"].key, **parts})
    if isinstance(work, TrainWork):
        parallel = work.train.parallel
        order = [work.train.order_seed, work.train.shuffle_tokens, parallel.data, parallel.latent]
        return canonical({"arrays": _arrays(stage), "order": order})
    if isinstance(work, EvalWork | StudyWork):
        capture = stage.deps["cache"].work
        assert isinstance(capture, CacheWork)
        parts = {"model": identity(capture.model), stage.kind: identity(work)}
        return canonical({"tokens": stage.deps["tokens"].key, **parts})
    return stage.name


def _arrays(stage: Stage) -> list[str]:
    """What is read and, of a transcoder, what is predicted."""
    return [stage.deps[role].key for role in ("cache", "target") if role in stage.deps]
