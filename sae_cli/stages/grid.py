"""One pass, many SAEs: the stream of an array is read once, and every SAE of the grid trains on it.

The SAE that is furthest behind in the stream always makes the next step. So SAEs of one batch size
go through it side by side, those of other batch sizes keep close, and one that was added later, or
was killed earlier, catches up first, while the others wait for it where they stand. What a step
computes depends on its SAE's own state and batch alone: nothing here can change a result.

What ends one SAE (`grid_member`) ends no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch

from sae_cli.errors import StoreError, TrainingError
from sae_cli.sae.base import SAE
from sae_cli.sae.mesh import SINGLE, Mesh
from sae_cli.stages.grid_feed import Feed
from sae_cli.stages.grid_member import Member
from sae_cli.stages.grid_order import Course
from sae_cli.stages.task import Task
from sae_cli.store.acts.array import ActivationReader
from sae_cli.store.acts.moments import Moments
from sae_cli.store.acts.shuffle import ShuffledReader

SHOWN = ("fvu", "l0", "dead_fraction")


class Source(NamedTuple):
    """An array in training."""

    reader: ActivationReader
    stats: Moments


class Grid:
    """SAEs in training on one order over a finished array.

    `finish(member, sae)` is called for each SAE that ends well; of the others the task fails.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        source: Source,
        device: torch.device,
        *,
        target: Source | None = None,
        order: tuple[int, int],
        finish: Callable[[Member, SAE], None],
        mesh: Mesh = SINGLE,
    ) -> None:
        """`order` is the seed of the order and the tokens of its pools; `target` what transcoders
        predict, its rows those of `source`. Every process of `mesh` has
        a grid of the same tasks, and only the one that leads calls `finish`."""
        self._mesh = mesh
        self._sources, self._device = [source], device
        if target is not None:
            self._sources.append(target)
        self._seed, self._pool = order
        self._finish = finish
        self._report = tasks[0].report
        self._label = tasks[0].slug
        if len(tasks) > 1:
            self._label = f"{len(tasks)} SAEs on {tasks[0].deps['cache'].slug}"
        course = Course(source.reader, self._pool, self._seed)
        predicted = None if target is None else target.stats
        self._live: list[Member] = []
        for task in tasks:
            try:
                self._live.append(Member(task, source.stats, course, device, mesh, predicted))
            except (TrainingError, StoreError) as error:  # no such SAE, or another run's state
                task.fail(error)
        begun = [f"{member.task.key} at step {member.trainer.steps}" for member in self._live]
        if not mesh.same(" ".join(begun)):
            raise StoreError(
                "the processes of this training found different checkpoints",
                hint="all of them must see one workspace, on a disk that they share",
            )
        self._made = sum(member.trainer.steps for member in self._live)

    def run(self) -> None:
        """Train them all. Raises Interrupted, with all saved, when asked to stop; StoreError when
        the array can't be read, or a checkpoint not be written."""
        if not self._live:
            return
        end = max(member.end for member in self._live)
        total = sum(member.steps for member in self._live)
        self._report.begin(self._label, total, self._made, "steps")
        with ExitStack() as stack:
            feeds = [Feed(stack.enter_context(self._stream(each, end))) for each in self._sources]
            try:
                for member in self._live:
                    member.begin(*feeds)
                    member.task.progress(member.trainer.steps, member.steps)
                while self._live:
                    self._advance(min(self._live, key=lambda m: m.low), feeds)
            except BaseException as error:
                for member in self._live:
                    member.close(error)
                raise

    def _stream(self, source: Source, end: int) -> ShuffledReader:
        return ShuffledReader(source.reader, self._pool, self._seed, device=self._device, end=end)

    def _advance(self, member: Member, feeds: Sequence[Feed]) -> None:
        """One step of the member that is furthest behind, or its end."""
        try:
            if member.done:
                member.finish(lambda sae: self._ended(member, sae))
                if member in self._live:
                    self._live.remove(member)
                return
            for feed in feeds:
                feed.forget(member.low)
            member.step()
        except TrainingError as error:
            self._lose(member, error)
            return
        self._made += 1
        self._report.at(self._made, self._shown(member))
        member.task.progress(member.trainer.steps, member.steps)
        if self._mesh.any(member.task.stop()):
            self._stop()

    def _ended(self, member: Member, sae: SAE) -> None:
        self._live.remove(member)
        member.close()
        self._finish(member, sae)

    def _lose(self, member: Member, error: TrainingError) -> None:
        """Go on without a member that met numbers that are not finite."""
        told = member.explained(error)
        told.__cause__ = error
        self._live.remove(member)
        member.close(told)
        member.task.fail(told)

    def _stop(self) -> None:
        """Save all and leave, unless only ends are left."""
        if all(member.done for member in self._live):
            return
        for member in list(self._live):
            try:
                member.save()
            except TrainingError as error:
                self._lose(member, error)
        going = [member for member in self._live if not member.done]
        if going:
            least = min(going, key=lambda member: member.trainer.steps)
            others = f" (of {len(self._live)} SAEs the least)" if len(self._live) > 1 else ""
            raise least.task.left(f"step {least.trainer.steps:,} of {least.steps:,}{others}")

    def _shown(self, member: Member) -> dict[str, float]:
        """The numbers of a single SAE; of several, how far they lie apart."""
        if len(self._live) == 1:
            return {name: member.numbers[name] for name in SHOWN if name in member.numbers}
        found = [m.numbers["fvu"] for m in self._live if "fvu" in m.numbers]
        return {"fvu from": min(found), "to": max(found)} if found else {}
