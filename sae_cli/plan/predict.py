"""How long the jobs of a plan take, and what they add up to.

Times come from a calibration of this workspace (`calibration`), if there is one. Without one, only
device hours are told, of a device that is named and at shares of its peak that are assumed: see
`REFERENCE`. A job's time is that of one process doing it alone, on the device that was measured.
Reading stored activations overlaps with training and is not added; where disks are slower than
steps, predictions are too short. On a CPU writing takes the forward's cores and is added to it; on
a GPU they overlap, and the slower one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from sae_cli.plan.calibration import Calibration
from sae_cli.plan.cost import Cost, cost, step_flops, steps
from sae_cli.plan.graph import Stage, model_slug
from sae_cli.plan.jobs import Job, coalesce
from sae_cli.plan.sizes import sides
from sae_cli.spec.base import Frozen
from sae_cli.spec.work import CacheWork, TrainWork

N = TypeVar("N", int, float)
UNCOUNTED = "study"


@dataclass(frozen=True)
class Reference:
    """A device by its data sheet, and the shares of it that are assumed to be reached."""

    name: str
    half: float
    """Dense FLOP/s in bfloat16 and float16."""
    single: float
    """In float32."""
    forward_share: float
    train_share: float


REFERENCE = Reference("H100", 989.4e12, 67e12, forward_share=0.4, train_share=0.5)
"""NVIDIA's H100 SXM (`lm.flops`; a test compares). The shares are assumptions, not measurements."""


class JobLine(Frozen):
    """A job of a plan. None: not known."""

    kind: str
    name: str
    """Its first stage's, and how many more share it."""
    stages: int
    tokens: int
    forward_flops: int | None
    train_flops: int | None
    """Of SAEs: training steps, or an evaluation's encoding and decoding."""
    bytes: int | None
    device_hours: float | None
    seconds: float | None = None
    """Predicted from the calibration."""
    why: str | None = None
    """Why something is not known."""


class Totals(Frozen):
    """What the stages of a plan that run add up to, studies apart. None: not known, at least of one
    job."""

    capture_tokens: int
    """Tokens that forwards capture: of each model and text once, or once for each wave."""
    train_tokens: int
    """Tokens that SAEs train on, of all SAEs."""
    bytes: int | None
    forward_flops: int | None
    train_flops: int | None
    device_hours: float | None
    device: str
    """Whose hours these are."""
    assumed: bool
    """Whether they rest on assumed shares of its peak (`reference`), or on a calibration."""
    reference: str | None = None
    """The assumptions, in words."""
    calibration: str | None = None
    """When the device was measured."""
    jobs: tuple[JobLine, ...]


def totals(jobs: Sequence[Job], calibration: Calibration | None) -> Totals:
    """What jobs cost together."""
    costs = [cost(job) for job in jobs]
    times = _seconds(costs, calibration)
    lines = tuple(_line(c, s, calibration) for c, s in zip(costs, times, strict=True))
    ref = REFERENCE
    words = (
        f"{ref.forward_share:.0%} of {ref.half / 1e12:g} TFLOP/s in forwards (float32: of "
        f"{ref.single / 1e12:g}), {ref.train_share:.0%} of {ref.single / 1e12:g} in training"
    )
    return Totals(
        capture_tokens=sum(c.tokens for c in costs if c.kind == "cache"),
        train_tokens=sum(c.tokens for c in costs if c.kind == "train"),
        bytes=_sum([c.bytes for c in costs]),
        forward_flops=_sum([c.forward for c in costs if c.kind != UNCOUNTED]),
        train_flops=_sum([c.arithmetic for c in costs if c.kind == "train"]),
        device_hours=_sum([line.device_hours for line in lines if line.kind != UNCOUNTED]),
        device=ref.name if calibration is None else calibration.device,
        assumed=calibration is None,
        reference=words if calibration is None else None,
        calibration=None if calibration is None else calibration.measured,
        jobs=lines,
    )


def predicted(stages: Sequence[Stage], calibration: Calibration | None) -> dict[str, float]:
    """Seconds of each stage by name, where they are known: those of the job that it is part of."""
    if calibration is None:
        return {}
    costs = [cost(job) for job in coalesce(stages)]
    times = _seconds(costs, calibration)
    return {
        stage.name: seconds
        for each, seconds in zip(costs, times, strict=True)
        if seconds is not None
        for stage in each.stages
    }


def _seconds(costs: Sequence[Cost], calibration: Calibration | None) -> list[float | None]:
    """Of each job; the first of a kind also starts what its kind needs."""
    if calibration is None:
        return [None] * len(costs)
    found: list[float | None] = []
    begun: set[str] = set()
    for each in costs:
        seconds = _job_seconds(each, calibration)
        if seconds is not None and each.kind not in begun:
            seconds += calibration.starting(each.kind)
        begun.add(each.kind)
        found.append(seconds)
    return found


def _job_seconds(job: Cost, calibration: Calibration) -> float | None:
    if job.kind == "tokens":
        return job.tokens / calibration.tokens_per_second
    if job.kind == "cache":
        return _capture_seconds(job, calibration)
    if job.kind == "train":
        return _train_seconds(job, calibration)
    if job.kind == "release":
        return 0.0
    if job.forward is None or job.arithmetic is None:
        return None
    model = job.stages[0].deps["cache"].work
    assert isinstance(model, CacheWork)
    name, flops = model_slug(model.model), (job.forward + job.arithmetic) // job.tokens
    one = calibration.eval_seconds(name, model.model.dtype, flops)
    return None if one is None else calibration.loading(name) + job.tokens * one


def _capture_seconds(job: Cost, calibration: Calibration) -> float | None:
    if job.forward is None:
        return None
    work = job.stages[0].work
    assert isinstance(work, CacheWork)
    name = model_slug(work.model)
    forward = calibration.forward_seconds(name, work.model.dtype, job.forward // job.tokens)
    writing = 0.0
    for stage in job.stages:
        assert isinstance(stage.work, CacheWork) and stage.facts is not None
        row = calibration.row_seconds(work.cache.dtype, stage.facts.d_in(stage.work.site))
        if row is None:
            return None
        writing += row
    if forward is None:
        return None
    both = max(forward, writing) if calibration.type == "cuda" else forward + writing
    fixed = calibration.loading(name) + calibration.capture_seconds
    return fixed + job.tokens * both


def _train_seconds(job: Cost, calibration: Calibration) -> float | None:
    total = 0.0
    for stage in job.stages:
        dims = sides(stage)
        assert isinstance(stage.work, TrainWork)
        spec = stage.work.train
        if dims is None:
            return None
        assert spec.width is not None
        one = calibration.step_seconds(
            spec.arch,
            spec.batch_size * step_flops(spec, *dims),
            (*dims, spec.width),
            spec.batch_size,
        )
        if one is None:
            return None
        total += steps(spec) * one + calibration.train_seconds
    return total


def _line(job: Cost, seconds: float | None, calibration: Calibration | None) -> JobLine:
    first, more = job.stages[0], len(job.stages) - 1
    busy = _assumed_seconds(job) if calibration is None else seconds
    return JobLine(
        kind=job.kind,
        name=first.slug + (f" and {more} more" if more else ""),
        stages=len(job.stages),
        tokens=job.tokens,
        forward_flops=job.forward,
        train_flops=job.arithmetic,
        bytes=job.bytes,
        device_hours=None if busy is None else busy / 3600,
        seconds=seconds,
        why=None if busy is not None else _reason(job),
    )


def _reason(job: Cost) -> str:
    if job.kind == UNCOUNTED:
        return "what a study costs is not counted"
    if None in (job.forward, job.arithmetic):
        return "its model's sizes are not known here, or it has layers that are not counted"
    return f"nothing was measured that {job.kind} could be predicted from"


def _assumed_seconds(job: Cost) -> float | None:
    """Seconds on the reference device: of arithmetic alone."""
    if job.forward is None or job.arithmetic is None:
        return None
    work = job.stages[0].work if job.kind == "cache" else None
    if job.kind == "eval":
        work = job.stages[0].deps["cache"].work
    single = isinstance(work, CacheWork) and work.model.dtype == "float32"
    ref = REFERENCE
    forward = (ref.single if single else ref.half) * ref.forward_share
    return job.forward / forward + job.arithmetic / (ref.single * ref.train_share)


def _sum(found: Sequence[N | None]) -> N | None:
    known = [n for n in found if n is not None]
    return sum(known) if len(known) == len(found) else None
