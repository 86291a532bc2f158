"""What a sweep may take of a machine or a cluster. Nothing here enters a key."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from sae_cli.spec.base import Count, Frozen, Shape
from sae_cli.spec.size import Size

Word = Annotated[
    str,
    Shape(r"[A-Za-z0-9][A-Za-z0-9._,+-]*", "a name as a cluster has them: no spaces, no quotes"),
]
Option = Annotated[
    str,
    Shape(
        r"--[a-z][a-z-]*(=[A-Za-z0-9._,:/@%&|*()+\[\]-]+)?",
        "an option of sbatch: --name or --name=value, without spaces or quotes",
    ),
]
Line = Annotated[str, Shape(r"[^\r\n]+", "one line of shell")]


class StorageSpec(Frozen):
    """Room for activations."""

    budget: Size | None = None
    """Most bytes of activations that the sweep keeps at once: `2TB`. A sweep that needs more runs
    in waves: some activations are captured, their SAEs trained and evaluated, the activations
    freed, then come the next. Left out, all are kept."""


class JobResources(Frozen):
    """What one job asks for. What is left out is left to the cluster."""

    gpus: Count | None = None
    """GPUs of a job."""
    cpus: PositiveInt | None = None
    """Cores of a job."""
    memory: Size | None = None
    """Memory of a job: `64 GB`."""
    hours: PositiveFloat | None = None
    """Slurm's time limit. A job that reaches it saves, is queued again, and goes on."""
    at_once: PositiveInt | None = None
    """Most jobs of the kind that run beside each other."""
    partition: Word | None = None
    """Slurm's partition (or several, `a,b`)."""
    account: Word | None = None
    """Slurm's account."""
    options: tuple[Option, ...] = ()
    """More of sbatch's options, for example `--constraint=h100`."""


class Resources(Frozen):
    """What an executor asks for, by kind of stage."""

    tokens: JobResources = JobResources()
    """Text to token blocks."""
    cache: JobResources = JobResources()
    """Capture: one job for each set of activations that share their forwards."""
    train: JobResources = JobResources()
    """Training: one job for each pass over stored activations."""
    eval: JobResources = JobResources()
    """Evaluation: one job for each model."""
    study: JobResources = JobResources()
    """Studies: one job for each study and model."""
    release: JobResources = JobResources()
    """The suite's folder."""
    setup: tuple[Line, ...] = ()
    """Lines of shell that a cluster's job runs first, for example `module load cuda`."""
    grace_seconds: Annotated[int, Field(ge=10)] = 120
    """Seconds before a time limit at which a job is told to save."""
