"""Weights & Biases, when the spec asks: imported here and nowhere else.

The run's id is the stage's key, so a resumed training goes on with its own curve. A grid has a run
for each of its SAEs, side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_cli.errors import Interrupted, UsageError
from sae_cli.spec.stages import WandbSpec


class Tracker:
    """Tells nobody. A context manager."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Numbers of one step."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """No more will come."""


class _Wandb(Tracker):
    def __init__(self, spec: WandbSpec, key: str, name: str, config: dict[str, Any], out: Path):
        try:
            import wandb
        except ModuleNotFoundError as e:
            raise UsageError(
                "the spec asks for wandb, which is not installed",
                hint="pip install 'saectl[wandb]', or remove the wandb block",
            ) from e
        self._run = wandb.init(
            project=spec.project,
            entity=spec.entity,
            mode=spec.mode,
            id=key,
            name=name,
            config=config,
            resume="allow",
            reinit="create_new",  # the others of a grid go on with theirs
            dir=str(out),
            settings=wandb.Settings(silent=True),
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        well = kind is None or issubclass(kind, Interrupted)
        self._run.finish(exit_code=0 if well else 1)


def tracker(
    spec: WandbSpec | None, key: str, name: str, config: dict[str, Any], out: Path
) -> Tracker:
    """A tracker for one training; without `spec`, one that does nothing.

    Raises UsageError when wandb is asked for and not installed.
    """
    return Tracker() if spec is None else _Wandb(spec, key, name, config, out)
