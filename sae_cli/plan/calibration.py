"""What was measured on a device: `saectl bench` writes it, a plan predicts times from it.

One file for each device in the workspace, `bench/<device>.json`. Times are taken at several sizes,
and a size between two of them lies on the line between them in the logarithms; below the smallest
a step costs what the smallest does (that is its fixed cost), above the largest, time grows as FLOPs
do. It refuses to predict a kind of work of which nothing was measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError

from sae_cli.plan.cost import DENSE
from sae_cli.spec.base import Frozen
from sae_cli.spec.work import Kind
from sae_cli.store.atomic import write_json
from sae_cli.store.key import slug
from sae_cli.store.layout import Workspace

CLOSE = 1.25
"""A time that was measured at this many times the size, or less, is taken as it is per FLOP."""


class ForwardPoint(Frozen):
    """A forward up to a layer, without logits, through `Capture`."""

    model: str
    dtype: str
    flops_per_token: PositiveInt
    context: PositiveInt
    seconds_per_token: PositiveFloat
    flops_per_second: PositiveFloat


class TrainPoint(Frozen):
    """Steps of one SAE through `Trainer`: their mean over a whole short schedule, the first apart,
    which sets things up."""

    arch: str
    d_in: PositiveInt
    d_out: PositiveInt
    width: PositiveInt
    batch_size: PositiveInt
    flops_per_step: PositiveInt
    steps: PositiveInt
    """How many were timed."""
    seconds_per_step: PositiveFloat
    flops_per_second: PositiveFloat


class WritePoint(Frozen):
    """Rows through `Recorder`: encoded, hashed, measured, on disk and synced."""

    dtype: str
    d_in: PositiveInt
    seconds_per_row: PositiveFloat
    mb_per_second: PositiveFloat
    """10^6 bytes, as they lie on disk."""


class EvalPoint(Frozen):
    """An evaluation of one SAE, without loading."""

    model: str
    flops_per_token: PositiveInt
    seconds_per_token: PositiveFloat
    flops_per_second: PositiveFloat


class Calibration(Frozen):
    """What a device does in a second, in the units that the names say."""

    version: Literal[1] = 1
    device: str
    type: str
    """cpu or cuda."""
    threads: PositiveInt
    saectl: str
    measured: str
    """Date and time, UTC."""
    measured_at: float
    """Seconds since 1970."""
    sweep: str | None = None
    """Whose model and sizes were measured; none: the defaults."""
    start_seconds: dict[str, NonNegativeFloat]
    """What the first job of a kind takes in a process before it begins: libraries."""
    load_seconds: dict[str, NonNegativeFloat]
    """What it takes to load a model, by its name."""
    tokens_per_second: PositiveFloat
    """Text that is packed."""
    capture_seconds: NonNegativeFloat
    """What a capture takes beside forwards and writing: the norms of a sample, opening, sealing."""
    train_seconds: NonNegativeFloat
    """What a training takes beside its steps: opening, calibration, folding, writing."""
    forward: tuple[ForwardPoint, ...]
    train: tuple[TrainPoint, ...]
    write: tuple[WritePoint, ...]
    evaluation: tuple[EvalPoint, ...]
    notes: tuple[str, ...] = ()
    """What was not measured as asked, and why."""

    @property
    def slug(self) -> str:
        """The device's name as a file's."""
        return slug(self.device.lower())

    def save(self, workspace: Workspace) -> Path:
        """Write it to its place, which is returned."""
        path = workspace.bench / f"{self.slug}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.model_dump(mode="json"))
        return path

    def starting(self, kind: Kind) -> float:
        """Seconds before the first job of a kind begins."""
        return self.start_seconds.get(kind, 0.0)

    def loading(self, model: str) -> float:
        """Seconds to load a model; those of the slowest that was measured, if not this one."""
        return self.load_seconds.get(model, max(self.load_seconds.values(), default=0.0))

    def forward_seconds(self, model: str, dtype: str, flops: int) -> float | None:
        """Seconds per token of a forward of so many FLOPs per token: of this model, if it was
        measured, of this number format, if any was."""
        same = [p for p in self.forward if (p.model, p.dtype) == (model, dtype)]
        points = same or [p for p in self.forward if p.dtype == dtype] or list(self.forward)
        return interpolated([(p.flops_per_token, p.seconds_per_token) for p in points], flops)

    def step_seconds(
        self, arch: str, flops: int, size: tuple[int, int, int] = (0, 0, 0), batch: int = 0
    ) -> float | None:
        """Seconds of a training step of so many FLOPs: of this architecture, or else of those that
        are dense, or sparse, as it is.

        `size` is (d_in, d_out, width). Where it was measured with two batches, `batch` lies on the
        line through them: what Adam does to the weights costs the same for any batch.
        """
        same = [p for p in self.train if p.arch == arch and (p.d_in, p.d_out, p.width) == size]
        line = sorted({p.batch_size: p.seconds_per_step for p in same}.items())
        if len(line) > 1:
            (less, before), (more, after) = line[-2:]
            slope = max(0.0, (after - before) / (more - less))
            return max(before, after + slope * (batch - more)) if batch > less else before
        own = [p for p in self.train if p.arch == arch]
        kin = [p for p in self.train if (p.arch in DENSE) == (arch in DENSE)]
        return interpolated([(p.flops_per_step, p.seconds_per_step) for p in own or kin], flops)

    def row_seconds(self, dtype: str, d_in: int) -> float | None:
        """Seconds to write a row."""
        points = [p for p in self.write if p.dtype == dtype] or list(self.write)
        return interpolated([(p.d_in, p.seconds_per_row) for p in points], d_in)

    def eval_seconds(self, model: str, dtype: str, flops: int) -> float | None:
        """Seconds per token of an evaluation of so many FLOPs per token: by one of this model, or
        else as fast as forwards."""
        for point in self.evaluation:
            if point.model == model:
                return flops / point.flops_per_token * point.seconds_per_token
        return self.forward_seconds(model, dtype, flops)


def interpolated(points: Sequence[tuple[float, float]], size: float) -> float | None:
    """The time at `size` by what was measured: (size, seconds) at least once, else None."""
    if not points:
        return None
    known: dict[float, list[float]] = {}
    for at, seconds in points:
        known.setdefault(at, []).append(seconds)
    line = sorted((at, sum(found) / len(found)) for at, found in known.items())
    (least, fewest), (most, longest) = line[0], line[-1]
    if size <= least:
        return fewest * (size / least if least <= CLOSE * size else 1.0)
    if size >= most:
        return longest * size / most
    for (a, before), (b, after) in itertools.pairwise(line):
        if a <= size <= b:
            share = math.log(size / a) / math.log(b / a)
            return math.exp(math.log(before) * (1 - share) + math.log(after) * share)
    raise AssertionError


def newest(workspace: Workspace) -> Calibration | None:
    """The latest calibration of the workspace, if there is one; a file that is none is passed over:
    another version wrote it, and measuring anew is cheap."""
    found = []
    for path in sorted(workspace.bench.glob("*.json")):
        try:
            found.append(Calibration.model_validate_json(path.read_bytes()))
        except (ValidationError, OSError):
            continue
    return max(found, key=lambda c: c.measured_at, default=None)
