"""A small real run of one SAE, in a workspace that is deleted: what packing text, evaluating, and
beginning and ending a training take on this machine.

It is the sweep's own first SAE where its model is here, else the embedded model's, with less text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sae_cli.cli.progress import Lines
from sae_cli.errors import StoreError
from sae_cli.plan.calibration import ForwardPoint
from sae_cli.plan.cost import cost, step_flops, steps
from sae_cli.plan.graph import Graph, Stage, build, model_slug
from sae_cli.plan.jobs import Job
from sae_cli.plan.pin import Pins
from sae_cli.plan.place import folder
from sae_cli.plan.sizes import sides
from sae_cli.run import inline
from sae_cli.run.context import Context
from sae_cli.spec.cell import Cell
from sae_cli.spec.load import Sweep, find, load
from sae_cli.spec.models import at_hand
from sae_cli.spec.stages import DataSpec, Source
from sae_cli.spec.work import CacheWork, Kind, TrainWork
from sae_cli.store.layout import Workspace
from sae_cli.store.records.ledger import read_done

SLOW = 1e-4
"""Seconds per token of a forward, where none was measured."""
PASSES = 6
"""Forwards that an evaluation is worth, about, with logits and metrics."""
TEXT, HELD_OUT = 65_536, 32_768
"""Most tokens."""
STEPS = 12
_GRAMMAR = Source(builtin="tiny")
_KINDS: tuple[Kind, ...] = ("tokens", "cache", "train", "eval")


class Trial(NamedTuple):
    """What the small run took."""

    model: str
    tokens_per_second: float
    capture_tokens: int
    capture_seconds: float
    arch: str
    step_flops: int
    train_steps: int
    train_seconds: float
    eval_tokens: int
    eval_flops: int
    """Per token."""
    eval_seconds: float


def trial(graph: Graph, place: Path, seconds: float, forward: Sequence[ForwardPoint]) -> Trial:
    """Run it in about `seconds`, in the folder `place`. Raises StoreError with what failed."""
    workspace = Workspace(place / "store")
    sweep, cell = _chosen(graph.sweep, workspace)
    made = build(_small(sweep, cell, seconds, forward))
    context = Context(workspace, Lines(quiet=True), sweep.spec.device, lambda: False)
    for result in inline.run(made.of(*_KINDS), context):
        if result.ending != "done":
            raise StoreError(f"the small run failed: {result.stage.name}: {result.cause}")
    (tokens,), (array,), (train,), (score,) = (made.of(kind) for kind in _KINDS)
    packed, judged, dims = cost(Job((tokens,))), cost(Job((score,))), sides(train)
    work, capture = train.work, train.deps["cache"].work
    assert isinstance(work, TrainWork) and isinstance(capture, CacheWork)
    assert dims is not None and judged.forward is not None and judged.arithmetic is not None
    return Trial(
        model=model_slug(capture.model),
        tokens_per_second=packed.tokens / _took(workspace, tokens),
        capture_tokens=cost(Job((array,))).tokens,
        capture_seconds=_took(workspace, array),
        arch=work.train.arch,
        step_flops=work.train.batch_size * step_flops(work.train, *dims),
        train_steps=steps(work.train),
        train_seconds=_took(workspace, train),
        eval_tokens=judged.tokens,
        eval_flops=(judged.forward + judged.arithmetic) // judged.tokens,
        eval_seconds=_took(workspace, score),
    )


def _chosen(sweep: Sweep, workspace: Workspace) -> tuple[Sweep, Cell]:
    """A sweep whose model is here and of known FLOPs, and its smallest SAE."""
    cells = [
        c for c in sweep.cells
        if c.out_site is None and at_hand(sweep.models[c.model]) and _known(sweep, c)
        and c.train.parallel.processes == 1
    ]  # fmt: skip
    if cells:
        return sweep, min(cells, key=lambda c: (c.train.width or 0) * c.train.batch_size)
    tiny = Pins(workspace.root, online=False).apply(load(find("tiny")))
    own = tiny.spec.model_copy(update={"device": sweep.spec.device})
    return dataclasses.replace(tiny, spec=own), tiny.cells[0]


def _known(sweep: Sweep, cell: Cell) -> bool:
    facts = sweep.facts[cell.model]
    return facts is not None and None not in (facts.gated, facts.intermediate, facts.vocab)


def _small(sweep: Sweep, cell: Cell, seconds: float, forward: Sequence[ForwardPoint]) -> Sweep:
    """The sweep with one SAE, and as much text as there is time for."""
    name, spec = model_slug(sweep.models[cell.model]), sweep.spec
    one = next((p.seconds_per_token for p in forward if p.model == name), SLOW)
    context = spec.data.context

    def some(share: float, most: int) -> int:
        return max(2 * context, min(most, int(seconds * share / one)))

    data: DataSpec = spec.data.model_copy(
        update={
            "sources": tuple(s for s in spec.data.sources if s.hf is None)[:1] or (_GRAMMAR,),
            "tokens": some(0.25, TEXT),
            "heldout_tokens": some(0.5 / PASSES, HELD_OUT),
        }
    )
    batch = cell.train.batch_size
    train = cell.train.model_copy(update={"num_tokens": STEPS * batch, "ema_decay": None})
    small = spec.model_copy(
        update={
            "data": data,
            "cache": spec.cache.model_copy(update={"store": None}),
            "eval": spec.eval.model_copy(update={"tokens": None}),
            "wandb": None,
        }
    )
    return dataclasses.replace(sweep, spec=small, cells=(dataclasses.replace(cell, train=train),))


def _took(workspace: Workspace, stage: Stage) -> float:
    done = read_done(folder(workspace, stage))
    assert done is not None
    return max(done.seconds, 1e-3)
