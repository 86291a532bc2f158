"""Which SAEs of a sweep are equal but for one thing: the model's weights, or the seed.

An SAE of a model whose weights are drawn anew (`model.reinit`) is the control `random_model` of the
SAE that is equal but for that; SAEs that are equal but for their seed are one finding, measured
several times. Equal means: every field that decides a result, the text, and the site.
"""

from __future__ import annotations

from typing import Any

from sae_cli.plan.graph import Graph, Stage
from sae_cli.spec.base import identity
from sae_cli.spec.cell import Cell
from sae_cli.spec.work import CacheWork, TrainWork
from sae_cli.store.key import canonical

RANDOM_MODEL = "random_model"
"""What an SAE of a model with random weights is called, where it stands beside its like."""


def reinit_of(train: Stage) -> int | None:
    """The seed that the weights of an SAE's model were drawn from; None for a model as it is."""
    capture = train.deps["cache"].work
    assert isinstance(capture, CacheWork)
    return capture.model.reinit


def in_pairs(graph: Graph) -> list[tuple[Cell, Stage, Stage | None]]:
    """The cells of a sweep with what trains them, in order, but that a control stands behind the
    SAE that it is a control of, which comes third."""
    plain = {likeness(train): train for _, train in graph.cells if reinit_of(train) is None}
    behind: dict[str, list[tuple[Cell, Stage, Stage | None]]] = {}
    own: list[tuple[Cell, Stage, Stage | None]] = []
    for cell, train in graph.cells:
        like = None if reinit_of(train) is None else plain.get(likeness(train))
        if like is None:
            own.append((cell, train, None))
        else:
            behind.setdefault(like.key, []).append((cell, train, like))
    return [row for each in own for row in (each, *behind.pop(each[1].key, []))]


def likeness(train: Stage, *, seed: bool = True, weights: bool = False) -> str:
    """The same text for SAEs that are equal but for the model's weights; without `seed` also for
    those of other seeds, with `weights` only for those of the same weights."""
    own = identity(train.work)
    if not seed and isinstance(train.work, TrainWork):
        del own["train"]["seed"]
    return canonical({"own": own, "deps": {r: _read(d, weights) for r, d in train.deps.items()}})


def _read(dep: Stage, weights: bool) -> Any:
    """A dependency, whoever's weights it was computed with."""
    work = dep.work
    if weights or not isinstance(work, CacheWork):
        return dep.key
    model = work.model.model_copy(update={"reinit": None})
    text = {role: each.key for role, each in dep.deps.items()}
    return [identity(work.model_copy(update={"model": model})), text]
