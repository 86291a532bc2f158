"""The file a user writes: models, text, a matrix of SAEs, and how each stage does its work."""

from __future__ import annotations

from typing import Annotated

from sae_cli.spec.base import Execution, Frozen, Shape
from sae_cli.spec.fragment import MatrixSpec, TrainFragment
from sae_cli.spec.resources import Resources, StorageSpec
from sae_cli.spec.sections import keys_of
from sae_cli.spec.size import Size
from sae_cli.spec.stages import (
    CacheSpec,
    DataSpec,
    EvalSpec,
    ModelSpec,
    ReleaseSpec,
    WandbSpec,
)
from sae_cli.spec.studies import StudiesSpec


class SweepSpec(Frozen):
    """A sweep: one SAE for every cell of its matrix."""

    name: Annotated[
        str,
        Shape(
            r"[a-z0-9][a-z0-9._-]{0,63}",
            "a name for a sweep: up to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first",
        ),
    ]
    """Name of the sweep and of its folder under `runs/`."""
    model: str | None = None
    """The model, when all cells read the same one: a preset, a name from `models`, a hub id, or a
    local folder. Default: the embedded model, `tiny`."""
    models: dict[str, ModelSpec] = {}
    """Models of your own, by name."""
    data: DataSpec = DataSpec()
    """Text to token blocks."""
    cache: CacheSpec = CacheSpec()
    """Capture of activations."""
    train: TrainFragment = TrainFragment()
    """Training fields that all cells share; the matrix overrides them."""
    eval: EvalSpec = EvalSpec()
    """Evaluation on held-out text."""
    studies: StudiesSpec = StudiesSpec()
    """What single latents are: done with the evaluation."""
    release: ReleaseSpec = ReleaseSpec()
    """What is handed out."""
    matrix: MatrixSpec = MatrixSpec()
    """Axes whose product gives the cells."""
    device: Annotated[
        str, Execution(), Shape(r"auto|cpu|cuda(:\d+)?", "one of auto, cpu, mps, cuda, cuda:N")
    ] = "auto"
    """auto, cpu, cuda or cuda:N."""
    quota: Annotated[Size | None, Execution()] = None
    """Most that the sweep's stages may take on the disk of the workspace: `500 GB`, `2TB`, or a
    number of bytes. A stage that would not fit is not begun."""
    memory: Annotated[Size | None, Execution()] = None
    """Most memory that trainings in one pass may take on their device: `80 GB`. Left out, what is
    free there. A grid that needs more trains in several passes."""
    storage: Annotated[StorageSpec, Execution()] = StorageSpec()
    """How much activations may take."""
    resources: Annotated[Resources, Execution()] = Resources()
    """Cores, GPUs and hours that an executor asks for."""
    wandb: Annotated[WandbSpec | None, Execution()] = None
    """Weights & Biases logging of training; left out, wandb is never imported."""


def known_keys() -> dict[str, tuple[str, ...]]:
    """The keys each section of a sweep admits, by dotted path (`*` for an index or a free name)."""
    return keys_of(SweepSpec)
