"""One SAE of a grid: its trainer, what it leaves on disk, and what it says.

What ends one SAE (numbers that are not finite, a state of another run) is an error of its own, told
with its name, and no other's. Nothing that is not finite is ever written: not to a checkpoint, not
to the SAE's folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from sae_cli.errors import StoreError, TrainingError
from sae_cli.sae.base import SAE
from sae_cli.sae.fold import scaling
from sae_cli.sae.mesh import SINGLE, Mesh
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.work import TrainWork
from sae_cli.stages.curve import Curve
from sae_cli.stages.grid_feed import Feed
from sae_cli.stages.grid_order import Course, Span
from sae_cli.stages.grid_state import read_state, write_state
from sae_cli.stages.task import Task
from sae_cli.stages.track import tracker
from sae_cli.store.acts.moments import Moments
from sae_cli.store.layout import StageDir

STATE = "state.safetensors"
CALIBRATION_ROWS = 1024
"""Rows at a time, at most, that a form calibrates with: it may look at all its latents."""


class Member:
    """One SAE in training, from its checkpoint if there is one. A context manager.

    Raises TrainingError or StoreError when it can't be begun.
    """

    def __init__(
        self,
        task: Task,
        stats: Moments,
        course: Course,
        device: torch.device,
        mesh: Mesh = SINGLE,
        target: Moments | None = None,
    ) -> None:
        """`stats` are those of what is read, `target` those of what a transcoder predicts."""
        assert isinstance(task.work, TrainWork)
        self.task, self.spec = task, task.work.train
        self._course = course
        self.steps = math.ceil(self.spec.num_tokens / self.spec.batch_size)
        """Of the whole training."""
        mean, scale = self._scaling(stats)
        self.trainer = Trainer(
            self.spec, len(stats.mean), mean, scale, device, self.steps, mesh,
            None if target is None else self._scaling(target),
        )  # fmt: skip
        state = read_state(self._path)
        if state is not None:
            try:
                self.trainer.load_state_dict(*state)
            except StoreError as error:
                raise StoreError(f"{self._path}: {error.what}", hint=error.hint) from error
        self.end = self._span(self.steps - 1).high
        """The first position of the stream behind its last step."""
        self.numbers: dict[str, float] = {}
        """Of the last line of the curve."""
        self._next: tuple[int, Span] | None = None
        self._open = ExitStack()
        self._told = (0.0, 0.0)
        self._fault: int | None = None

    def _scaling(self, stats: Moments) -> tuple[Tensor, float]:
        mean_square = stats.total_centred / stats.count + float(stats.mean.square().sum())
        return scaling(
            stats.mean, mean_square, center=self.spec.center, normalize=self.spec.normalize
        )

    def begin(self, feed: Feed, target: Feed | None = None) -> None:
        """Open what it writes to while it trains, if it is the one that writes. Rows come from
        `feed`, and what a transcoder predicts from `target`."""
        self._feed, self._target = feed, target
        self._told = (self._waited, time.perf_counter())
        if not self.trainer.mesh.leads:
            return
        self._curve = self._open.enter_context(
            Curve(StageDir(self.task.out).metrics, self.trainer.steps)
        )
        self._watch = self._open.enter_context(tracker(self.task, self._curve.before))

    @property
    def _waited(self) -> float:
        return self._feed.waited + (0.0 if self._target is None else self._target.waited)

    @property
    def done(self) -> bool:
        """Whether it has made all its steps."""
        return self.trainer.steps == self.steps

    @property
    def low(self) -> int:
        """Where in the stream its next step begins; -1 when only its end is left."""
        return -1 if self.done else self.next.low

    @property
    def next(self) -> Span:
        """The rows of its next step."""
        step = self.trainer.steps
        if self._next is None or self._next[0] != step:
            self._next = step, self._span(step)
        return self._next[1]

    def _span(self, step: int) -> Span:
        size = self.spec.batch_size
        return self._course.span(step * size, size, reserving=self.trainer.calibrates)

    def step(self) -> None:
        """One step on the rows of `next`; then a line of the curve and a checkpoint, if due.

        Raises TrainingError when a number is not finite; see `explained`.
        """
        how = (self.spec.center, self.spec.normalize)
        z, t = self._feed.scaled(self.next, how, self.trainer.prepare), None
        if self._target is not None:
            t = self._target.scaled(self.next, how, self.trainer.prepare_target)
        try:
            self.trainer.step_scaled(z, t)
        except TrainingError:
            self._fault = self.trainer.steps
            raise
        step = self.trainer.steps
        if step % self.spec.log_every == 0 or self.done:
            self._log()
        if step % self.spec.checkpoint_every == 0 and not self.done:
            self.save()

    def save(self) -> None:
        """A checkpoint. Raises TrainingError, and keeps the old one, when a number in it is not
        finite."""
        self.trainer.verify()
        broken = self.trainer.broken()
        if broken is not None:
            raise self._not_finite(broken)
        tensors, scalars = self.trainer.state_dict()
        self.trainer.mesh.lead(lambda: write_state(self._path, tensors, scalars))

    def finish(self, done: Callable[[SAE], None]) -> None:
        """Calibrate, if its form asks for it, and hand the finished SAE to `done`, in the process
        that leads."""
        if self.trainer.calibrates:
            rows = min(CALIBRATION_ROWS, self.spec.batch_size)
            self.trainer.calibrate(lambda: self._course.calibration(rows))
        sae = self.trainer.finish()

        def check_and_hand_over() -> None:
            assert sae is not None
            for name, tensor in sae.tensors().items():
                if not bool(torch.isfinite(tensor).all()):
                    raise self._not_finite(name)
            done(sae)

        self.trainer.mesh.lead(check_and_hand_over)

    def explained(self, error: TrainingError) -> TrainingError:
        """What ended this SAE: the row that is at fault, if one is."""
        told = TrainingError(f"{self.task.slug}: {error.what}", hint=error.hint)
        step = self._fault if self._fault is not None else self.trainer.fault
        if step is None:
            return told
        span = self._span(step)
        for role, feed in (("cache", self._feed), ("target", self._target)):
            at = None if feed is None else _first_bad(feed.again(span))
            if feed is None or at is None:
                continue
            row = self._course.row(span.low + (at if span.index is None else int(span.index[at])))
            array = self.task.deps[role]
            return TrainingError(
                f"{self.task.slug}: row {row} (shard {feed.shard_of(row)}) of {array.slug}-"
                f"{array.key} holds NaN or Inf: met at step {step} of {self.steps}",
                hint="capture refuses such rows, so the file has changed since: saectl verify "
                f"--only {array.path.name} --repair",
            )
        return told

    def close(self, error: BaseException | None = None) -> None:
        """Close what was opened; `error` is what ended it, if it did not end well."""
        self._open.__exit__(type(error) if error else None, error, None)

    def _log(self) -> None:
        waited, now = self._waited, time.perf_counter()
        share = (waited - self._told[0]) / max(now - self._told[1], 1e-9)
        self._told = waited, now
        self.numbers = self.trainer.log()
        if not self.trainer.mesh.leads:
            return
        line = {**self.numbers, "waiting": round(min(1.0, share), 4)}
        self._curve.write(self.trainer.steps, self.trainer.tokens, line)
        self._watch.log(line, self.trainer.steps)

    def _not_finite(self, name: str) -> TrainingError:
        return TrainingError(
            f"{name} is not finite after step {self.trainer.steps} of {self.steps}",
            hint="lower train.lr",
        )

    @property
    def _path(self) -> Path:
        return self.task.scratch / STATE


def _first_bad(rows: Tensor) -> int | None:
    """The first of `rows [n, d]` that is not finite, if one is."""
    bad = (~torch.isfinite(rows)).any(1).nonzero().flatten()
    return int(bad[0]) if bad.numel() else None
