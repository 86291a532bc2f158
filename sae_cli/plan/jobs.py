"""Stages to jobs: what shares a forward or a read is done in one.

A job is a list of stages of one kind that one process does together. Joining stages never changes
a result, only its cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sae_cli.plan.graph import Stage
from sae_cli.spec.base import identity
from sae_cli.spec.presets import ModelFacts
from sae_cli.spec.stages import Site
from sae_cli.spec.train import Train
from sae_cli.spec.work import CacheWork, EvalWork, TokensWork, TrainWork
from sae_cli.store.key import canonical

_TOKEN_BYTES = 4 + 8 + 4 + 1  # id, document, position, reasons


@dataclass(frozen=True)
class Job:
    """Stages that run together, in one process."""

    stages: tuple[Stage, ...]


def coalesce(stages: Sequence[Stage]) -> list[Job]:
    """Jobs for `stages`, in order.

    The sites of one model and text share their forwards, and so do the evaluations of its SAEs,
    wherever they read (the stage cuts them into rounds by memory). The trainings of one array share
    its read, where they share their order and their `parallel`: `fitted` then cuts them by memory.
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
    if isinstance(work, EvalWork):
        capture = stage.deps["cache"].work
        assert isinstance(capture, CacheWork)
        parts = {"model": identity(capture.model), "eval": identity(work.eval)}
        return canonical({"tokens": stage.deps["tokens"].key, **parts})
    return stage.name


def _arrays(stage: Stage) -> list[str]:
    """What is read and, of a transcoder, what is predicted."""
    return [stage.deps[role].key for role in ("cache", "target") if role in stage.deps]


def disk_bytes(stage: Stage) -> int | None:
    """Bytes that a stage's result takes, small records apart; None where sizes are not known."""
    work = stage.work
    if isinstance(work, TokensWork):
        return (_rows(work) + _heldout_rows(work)) * _TOKEN_BYTES
    if isinstance(work, CacheWork):
        source = stage.deps["tokens"].work
        assert isinstance(source, TokensWork)
        if stage.facts is None:
            return None
        d_in, rows = stage.facts.d_in(work.site), _rows(source)
        chunk = work.cache.chunk_rows(d_in, source.data.context, rows)
        return -(-rows // chunk) * chunk * work.cache.row_bytes(d_in)  # whole chunks
    if isinstance(work, TrainWork):
        capture = stage.deps["cache"].work
        assert isinstance(capture, CacheWork) and work.train.width is not None
        if stage.facts is None:
            return None
        return _sae_bytes(stage.facts, capture.site, work.train)
    if stage.kind == "release":
        sizes = [disk_bytes(d) for d in stage.deps.values() if d.kind == "train"]
        return None if None in sizes else sum(s for s in sizes if s is not None)
    return 0


def _rows(work: TokensWork) -> int:
    return -(-work.data.tokens // work.data.context) * work.data.context


def _heldout_rows(work: TokensWork) -> int:
    return -(-work.data.heldout_tokens // work.data.context) * work.data.context


def _sae_bytes(facts: ModelFacts, site: Site, train: Train) -> int:
    assert train.width is not None
    d_in = facts.d_in(site)
    d_out = facts.d_in(getattr(train, "out_site", None) or site)
    skip = d_in * d_out if getattr(train, "skip", False) else 0
    return 4 * ((d_in + d_out) * train.width + 2 * train.width + d_out + skip)
