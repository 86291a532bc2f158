"""Which trainings `saectl bench` measures: of which architectures, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from sae_cli.plan.cost import step_flops
from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.sizes import sides
from sae_cli.spec.train import ARCHITECTURES, Train
from sae_cli.spec.work import TrainWork

T = TypeVar("T")
MOST_SIZES = 8
"""Sizes of a sweep's SAEs that are measured, from the smallest to the largest."""


class Size(NamedTuple):
    """Of an SAE in training."""

    d_in: int
    width: int
    batch_size: int


SIZES = (Size(64, 512, 2048), Size(256, 2048, 2048), Size(512, 8192, 2048))
ARCHS = ("topk", "jumprelu", "relu_l1")


@dataclass(frozen=True)
class Asked:
    """One training that is to be measured."""

    train: Train
    d_in: int
    d_out: int
    stage: Stage | None = None
    """Of a sweep: whose activations it reads."""

    @property
    def flops(self) -> int:
        """Of a step."""
        return self.train.batch_size * step_flops(self.train, self.d_in, self.d_out)


def default_sizes(archs: Sequence[str], sizes: Sequence[Size]) -> list[Asked]:
    """Each architecture at each size; without any, those that most sweeps have."""
    found = []
    for arch in archs or ARCHS:
        for d_in, width, size in sizes or SIZES:
            fields = {"arch": arch, "width": width, "batch_size": size}
            found.append(Asked(ARCHITECTURES[arch].model_validate(fields), d_in, d_in))
    return found


def sizes_of(graph: Graph) -> list[Asked]:
    """The sizes of a sweep's SAEs, each once; of many, some from the smallest to the largest of
    each architecture."""
    different: dict[tuple[Any, ...], Asked] = {}
    for stage in graph.of("train"):
        dims = sides(stage)
        if not isinstance(stage.work, TrainWork):
            continue  # imported, not trained
        spec = stage.work.train
        if dims is not None:
            key = (spec.arch, spec.width, spec.batch_size, getattr(spec, "k", None), *dims)
            different.setdefault(key, Asked(spec, *dims, stage))
    by_arch: dict[str, list[Asked]] = {}
    for asked in sorted(different.values(), key=lambda a: a.flops):
        by_arch.setdefault(asked.train.arch, []).append(asked)
    most = max(2, MOST_SIZES // max(1, len(by_arch)))
    return [a for group in by_arch.values() for a in spread(group, most)]


def spread(sorted_: Sequence[T], most: int) -> list[T]:
    """At most so many of them, the first and the last among them."""
    if len(sorted_) <= most:
        return list(sorted_)
    return [sorted_[round(i * (len(sorted_) - 1) / (most - 1))] for i in range(most)]
