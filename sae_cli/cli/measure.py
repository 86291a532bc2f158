"""What `saectl bench` measures, in which order and for how long; the measuring itself is a heavy
module (`stages.calibrate`) that is imported here by name, when it is needed.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_cli import __version__
from sae_cli.cli.asked import SIZES, Asked, default_sizes, spread
from sae_cli.cli.trial import Trial, trial
from sae_cli.plan.calibration import (
    Calibration,
    EvalPoint,
    ForwardPoint,
    TrainPoint,
    WritePoint,
    interpolated,
)
from sae_cli.plan.cost import forward_flops
from sae_cli.plan.graph import Graph, Stage, model_slug
from sae_cli.plan.jobs import coalesce
from sae_cli.plan.memory import need
from sae_cli.spec.models import at_hand
from sae_cli.spec.presets import ModelFacts
from sae_cli.spec.stages import CacheSpec, ModelSpec, Site
from sae_cli.spec.work import KINDS, CacheWork, TokensWork

Say = Callable[[str], None]
MOST_STEP = 0.25
"""Share of its time that one step of a training may take; a batch is cut down to that."""
LONGEST = 4.0
"""Seconds of a step, even with a small batch, beyond which it is not measured at all."""
QUICK = 2e10
"""FLOP/s that are reckoned with before any were measured."""
MOST_WRITES = 3
FORWARDS, TRAININGS = 0.15, 0.5
"""Shares of the time; the rest is for writing, and for a small real run."""
RANDOM = "random Qwen3, d 512"


@dataclass
class _Found:
    """What was measured so far."""

    forward: list[ForwardPoint] = field(default_factory=list)
    train: list[TrainPoint] = field(default_factory=list)
    write: list[WritePoint] = field(default_factory=list)
    load: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    acts: dict[str, Any] = field(default_factory=dict)
    """Activations that a forward saw, by the key of the stage that stores them."""


def measured(
    graph: Graph, asked: Sequence[Asked], seconds: float, say: Say, *, named: bool
) -> Calibration:
    """All of it, in about `seconds` on top of what loading takes. Raises ModelError for a device
    that is not there."""
    start, heavy = _started(say)
    where = heavy.device_of(graph.sweep.spec.device)
    found = _Found()
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    if busy > cores:
        found.notes.append(
            f"the machine was busy (load {busy:.1f} on {cores} cores): times may be far too long"
        )
    say(f"measuring {where.name}")
    read = {each.stage.deps["cache"].key for each in asked if each.stage is not None}
    _forwards(graph, heavy, where.device, seconds * FORWARDS, found, say, named, read)
    share = seconds * TRAININGS / max(1, len(asked))
    for each in asked:
        _training(each, heavy, where.device, share, found, say)
    known = {p.arch for p in found.train}
    for arch in sorted({each.train.arch for each in asked} - known):  # its sizes are too large here
        for each in default_sizes([arch], SIZES[-1:]):
            _training(each, heavy, where.device, share, found, say)
    say("writing")
    with tempfile.TemporaryDirectory(prefix="saectl-bench-") as folder:
        _writes(graph, asked, heavy, Path(folder), found)
        say("a small run of all stages")
        ran = trial(graph, Path(folder), seconds * (1 - FORWARDS - TRAININGS), found.forward)
    now = time.time()
    return Calibration(
        device=where.name,
        type=where.device.type,
        threads=where.threads,
        saectl=__version__,
        measured=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)),
        measured_at=now,
        sweep=graph.sweep.spec.name if named else None,
        start_seconds=start,
        load_seconds=found.load,
        tokens_per_second=ran.tokens_per_second,
        capture_seconds=_capture(ran, found),
        train_seconds=max(0.0, ran.train_seconds - ran.train_steps * _step(found.train, ran)),
        forward=tuple(found.forward),
        train=tuple(found.train),
        write=tuple(found.write),
        evaluation=(_evaluation(ran, found.load),),
        notes=tuple(found.notes),
    )


def _started(say: Say) -> tuple[dict[str, float], Any]:
    """What libraries cost the first job of each kind, and the module that measures."""
    say("starting")
    start: dict[str, float] = {}
    for kind in KINDS:
        begun = time.perf_counter()
        importlib.import_module(f"sae_cli.stages.{kind}")
        start[kind] = time.perf_counter() - begun
    return start, importlib.import_module("sae_cli.stages.calibrate")


def _forwards(
    graph: Graph,
    heavy: Any,
    device: Any,
    seconds: float,
    found: _Found,
    say: Say,
    named: bool,
    read: Collection[str],
) -> None:
    """Forwards of each model of the sweep that is on this machine, and of one that is made up where
    there is none, or no sweep. Of the arrays with the keys `read`, activations are kept: trainings
    are measured on them."""
    jobs = coalesce(graph.of("cache"))
    wanted: list[tuple[str, ModelSpec | None, ModelFacts | None, Sequence[Stage]]] = []
    for job in jobs:
        work, facts = job.stages[0].work, job.stages[0].facts
        assert isinstance(work, CacheWork)
        if facts is not None and at_hand(work.model):
            tapped = {s.key: s for s in job.stages if s.key in read}
            last = max(job.stages, key=_layer)
            tapped[last.key] = last
            wanted.append((model_slug(work.model), work.model, facts, tuple(tapped.values())))
        else:
            found.notes.append(
                f"{model_slug(work.model)} is not on this machine: its forwards were not measured"
            )
    if not named or not wanted:
        wanted.append((RANDOM, None, None, jobs[0].stages))
    for name, spec, facts, stages in wanted:
        say(f"forward: {name}")
        first, source = stages[0].work, stages[0].deps["tokens"].work
        assert isinstance(first, CacheWork) and isinstance(source, TokensWork)
        context, dtype = source.data.context, first.model.dtype
        model, took = heavy.loaded(spec, dtype, device)
        facts = facts or ModelFacts.from_config(heavy.RANDOM.to_dict())
        assert facts is not None
        places: list[tuple[int, Site]] = [(facts.n_layers - 1, "resid_post")]
        if spec is not None:
            found.load[name] = took
            places = [(s.work.layer, s.work.site) for s in stages if isinstance(s.work, CacheWork)]
        deepest = max(layer for layer, _ in places)
        flops = forward_flops(facts, deepest + 1, context)
        one, acts = heavy.forward(
            model, places, context, first.cache.batch_tokens, seconds / len(wanted)
        )
        if spec is not None:
            found.acts |= {s.key: rows for s, rows in zip(stages, acts, strict=True)}
        if flops is None:
            found.notes.append(f"the FLOPs of {name} are not known: its forwards are left out")
            continue
        found.forward.append(
            ForwardPoint(
                model=name, dtype=dtype, flops_per_token=flops, context=context,
                seconds_per_token=one, flops_per_second=flops / one,
            )
        )  # fmt: skip


def _layer(stage: Stage) -> int:
    assert isinstance(stage.work, CacheWork)
    return stage.work.layer


def _training(
    asked: Asked, heavy: Any, device: Any, seconds: float, found: _Found, say: Say
) -> None:
    """One point, unless it does not fit. A batch is halved until a step is short enough, and once
    more: two points tell what hangs on the batch and what on the weights alone."""
    spec, whole = asked.train, asked.train.batch_size
    label = f"{spec.arch} {asked.d_in}x{spec.width}"
    if asked.stage is not None:
        asks = need([asked.stage])
        if asks is not None and not heavy.fits(asks.device, str(device)):
            found.notes.append(f"{label}: a training of this size does not fit here, not measured")
            return
    rate = max([QUICK, *(p.flops_per_second for p in found.train)])
    while spec.batch_size >= 512 and asked.flops / rate > MOST_STEP * seconds:
        spec = spec.model_copy(update={"batch_size": spec.batch_size // 2})
        asked = Asked(spec, asked.d_in, asked.d_out, asked.stage)
    if asked.flops / rate > LONGEST:
        found.notes.append(f"{label}: a step takes too long here, not measured")
        return
    sizes = [spec.batch_size]
    if spec.batch_size < whole and spec.batch_size > 1:
        sizes.append(spec.batch_size // 2)
    for size in sizes:
        cut = spec.model_copy(update={"batch_size": size})
        _point(Asked(cut, asked.d_in, asked.d_out, asked.stage), heavy, device, seconds, found, say)


def _point(asked: Asked, heavy: Any, device: Any, seconds: float, found: _Found, say: Say) -> None:
    spec = asked.train
    label = f"{spec.arch} {asked.d_in}x{spec.width}"
    say(f"train: {label}, batch {spec.batch_size}")
    rows = None if asked.stage is None else found.acts.get(asked.stage.deps["cache"].key)
    said = heavy.training(spec, (asked.d_in, asked.d_out), rows, device, seconds)
    if isinstance(said, str):
        found.notes.append(f"{label}: {said}, not measured")
        return
    steps, one = said
    assert spec.width is not None
    found.train.append(
        TrainPoint(
            arch=spec.arch, d_in=asked.d_in, d_out=asked.d_out, width=spec.width,
            batch_size=spec.batch_size, flops_per_step=asked.flops, steps=steps,
            seconds_per_step=one, flops_per_second=asked.flops / one,
        )
    )  # fmt: skip


def _writes(graph: Graph, asked: Sequence[Asked], heavy: Any, place: Path, found: _Found) -> None:
    """Rows of the dimensions that are asked for, in the sweep's number format."""
    spec: CacheSpec = graph.sweep.spec.cache
    context = graph.sweep.spec.data.context
    for d in spread(sorted({a.d_in for a in asked}), MOST_WRITES):
        rows = next((x for x in found.acts.values() if x.shape[1] == d), None)
        one = heavy.writing(place / str(d), d, context, spec, rows)
        found.write.append(
            WritePoint(
                dtype=spec.dtype, d_in=d, seconds_per_row=one,
                mb_per_second=spec.row_bytes(d) / one / 1e6,
            )
        )  # fmt: skip


def _step(train: Sequence[TrainPoint], ran: Trial) -> float:
    """Seconds of one of the trial's steps, by what was measured."""
    own = [p for p in train if p.arch == ran.arch] or list(train)
    return (
        interpolated([(p.flops_per_step, p.seconds_per_step) for p in own], ran.step_flops) or 0.0
    )


def _capture(ran: Trial, found: _Found) -> float:
    """Seconds of the trial's capture that its tokens don't explain."""
    forward = [p.seconds_per_token for p in found.forward if p.model == ran.model]
    each = min(forward, default=0.0) + min(p.seconds_per_row for p in found.write)
    fixed = ran.capture_seconds - found.load.get(ran.model, 0.0)
    return max(0.0, fixed - ran.capture_tokens * each)


def _evaluation(ran: Trial, load: Mapping[str, float]) -> EvalPoint:
    seconds = max(ran.eval_seconds - load.get(ran.model, 0.0), 0.1 * ran.eval_seconds)
    one = seconds / ran.eval_tokens
    return EvalPoint(
        model=ran.model, flops_per_token=ran.eval_flops, seconds_per_token=one,
        flops_per_second=ran.eval_flops / one,
    )  # fmt: skip
