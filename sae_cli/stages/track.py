"""Weights & Biases, when the spec asks: imported here and nowhere else.

A grid has a run for each of its SAEs, side by side, under the sweep as their group. A run's id is
the stage's key and its name the cell's, so a training that is killed and resumed goes on with its
own curve. The curve on disk (`curve`) is the truth, and the run is brought up to it: a step that
the run has is not logged again, whoever logged it, and one that a killed process did not get
through is logged when the training resumes. What the run has is asked of the server, or, offline,
read from the files of earlier attempts (`track_files`): a process that is killed takes with it what
wandb had not yet written, up to 32 KiB. Each attempt leaves an `offline-run-*` folder; they share
the id and no step, so `wandb sync` joins them, in the order of their start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sae_cli.errors import Interrupted, UsageError
from sae_cli.lm.names import model_name
from sae_cli.spec.stages import WandbSpec
from sae_cli.spec.work import CacheWork, TrainWork
from sae_cli.stages.task import Task
from sae_cli.stages.track_files import last_step, wait_for_step

TAG_LENGTH = 64
"""Characters that the service admits."""
Steps = Sequence[tuple[int, Mapping[str, float]]]


class Tracker:
    """Tells nobody. A context manager."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Numbers of one step."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """No more will come."""


class _Wandb(Tracker):
    def __init__(self, spec: WandbSpec, task: Task, before: Steps) -> None:
        try:
            import wandb
        except ModuleNotFoundError as e:
            raise UsageError(
                "the spec asks for wandb, which is not installed",
                hint="pip install 'saectl[wandb]', or remove the wandb block",
            ) from e
        assert isinstance(task.work, TrainWork)
        offline = spec.mode == "offline"
        there = last_step(task.out, task.key) if offline else -1  # before this run's own file
        self._run = wandb.init(
            project=spec.project,
            entity=spec.entity,
            mode=spec.mode,
            id=task.key,
            name=task.slug,
            group=spec.group,
            job_type="train",
            tags=tags(task),
            config=task.work.train.model_dump(),
            resume="allow",
            reinit="create_new",  # the others of a grid go on with theirs
            dir=str(task.out),
            settings=wandb.Settings(silent=True),
        )
        self._task, self._offline = task, offline
        self._next = there + 1 if offline else self._run.starting_step
        """The first step that the run does not have."""
        for step, numbers in before:
            self.log(numbers, step)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        if step >= self._next:
            # at once: it would else wait for the next step, and be lost if there is none
            self._run.log(dict(numbers), step=step, commit=True)
            self._next = step + 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        well = kind is None or issubclass(kind, Interrupted)
        self._run.finish(exit_code=0 if well else 1)
        if self._offline:  # it is written a moment later, and an attempt may follow in this process
            wait_for_step(self._task.out, self._task.key, self._next - 1)


def tags(task: Task) -> list[str]:
    """What a training's run is found by: model, site, architecture."""
    cache, work = task.deps["cache"].work, task.work
    assert isinstance(cache, CacheWork) and isinstance(work, TrainWork)
    found = (model_name(cache.model), cache.site, work.train.arch)
    return [tag[-TAG_LENGTH:] for tag in found]


def tracker(task: Task, before: Steps = ()) -> Tracker:
    """A tracker for one training, brought up to the steps `before`; one that does nothing where
    its work asks for none.

    Raises UsageError when wandb is asked for and not installed.
    """
    assert isinstance(task.work, TrainWork)
    spec = task.work.wandb
    return Tracker() if spec is None else _Wandb(spec, task, before)
