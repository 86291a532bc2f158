"""What one stage is told: the part of a sweep that decides its result, and nothing else.

A stage's key is made of these fields and of the keys it depends on, so a field belongs to the
first stage that it changes. The kinds stand here in the order in which an activation meets them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from sae_cli.spec.base import Execution, Frozen
from sae_cli.spec.imported import ImportedSae, Sae
from sae_cli.spec.stages import (
    CacheSpec,
    DataSpec,
    EvalSpec,
    MaskSpec,
    ModelSpec,
    ReleaseSpec,
    Site,
    WandbSpec,
)
from sae_cli.spec.studies import Study
from sae_cli.spec.train import Train

Kind = Literal["tokens", "cache", "train", "eval", "study", "release"]
KINDS: tuple[Kind, ...] = ("tokens", "cache", "train", "eval", "study", "release")
VERSIONS: dict[Kind, int] = {
    "tokens": 2, "cache": 3, "train": 3, "eval": 2, "study": 1, "release": 2,
}  # fmt: skip
"""A version rises when the same spec starts to give another result."""


class TokensWork(Frozen):
    """Text to token blocks, for one tokenizer."""

    model: ModelSpec
    """Whose tokenizer; fields that only matter to the forward pass stand at fixed values."""
    data: DataSpec
    """Sources, amounts, packing; of the mask, the first positions alone."""


class CacheWork(Frozen):
    """The activations of one (layer, site). Depends on tokens."""

    model: ModelSpec
    """The model that is read."""
    layer: int
    """Layer, from 0."""
    site: Site
    """Where in the layer."""
    cache: CacheSpec
    """How activations are captured and stored."""
    mask: MaskSpec
    """Which tokens do not count."""


class TrainWork(Frozen):
    """One SAE. Depends on a cache."""

    train: Train
    """Architecture and hyperparameters; the width is resolved."""
    wandb: Annotated[WandbSpec | None, Execution()] = None
    """Where to log."""


class ImportWork(Frozen):
    """An SAE of another project in the place of one that is trained. Depends on a cache, whose
    statistics alone are read."""

    sae: ImportedSae
    """Which files, and what they hold."""


class EvalWork(Frozen):
    """The metrics of one SAE. Depends on its training, its cache, and the held-out tokens."""

    eval: EvalSpec
    """What is measured, on how much."""


class StudyWork(Frozen):
    """What one study finds of one SAE. Depends on its training, its cache, and the text; where it
    compares, on the trainings of the SAE's twins."""

    study: Study
    """Which study, and its settings."""


class ReleaseWork(Frozen):
    """A suite's folder. Depends on every SAE of the sweep and its metrics."""

    name: str
    """The sweep's name."""
    release: ReleaseSpec
    """Title, license, authors."""


Work = TokensWork | CacheWork | TrainWork | ImportWork | EvalWork | StudyWork | ReleaseWork


def sae_of(work: Work) -> Sae:
    """What a stage of the kind `train` was told of its SAE."""
    if isinstance(work, ImportWork):
        return work.sae
    assert isinstance(work, TrainWork)
    return work.train
