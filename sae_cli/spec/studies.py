"""What a sweep may ask beyond metrics: is a latent something? One class a study, by its name.

Each is a stage of its own, so that an edit to one moves no other's key. Nothing is studied unless
it is asked for.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sae_cli.spec.base import Count, Fraction, Frozen, exactly_one
from sae_cli.spec.judge import JudgeSpec as JudgeSpec
from sae_cli.spec.steering import SteeringStudy
from sae_cli.spec.text_set import TextSet

StudyName = Literal["truth", "stability", "localisation", "probing", "explanations", "steering"]
STUDIES: tuple[StudyName, ...] = (
    "truth", "stability", "localisation", "probing", "explanations", "steering",
)  # fmt: skip


COMPARING: frozenset[StudyName] = frozenset({"stability"})
"""Those that look at an SAE's twins too: its key holds theirs."""


class TruthStudy(Frozen):
    """How well single latents match the labels of the embedded model's grammar."""

    study: Literal["truth"] = "truth"
    """Which study it is."""
    tokens: PositiveInt = 16_384
    """Training tokens, the first ones, on which the latent and threshold of a label are chosen."""
    heldout_tokens: PositiveInt | None = 16_384
    """Held-out tokens, the first ones, on which they are judged. null takes all."""
    fewest: PositiveInt = 50
    """Labels of fewer tokens than these, of either part, are left out."""
    most: Fraction = 0.9
    """So are labels of a larger share of the tokens than this, of either part."""


class StabilityStudy(Frozen):
    """How many latents other seeds find too."""

    study: Literal["stability"] = "stability"
    """Which study it is."""
    heldout_tokens: PositiveInt | None = 32_768
    """Held-out tokens, the first ones; a latent that fires on none of them is dead. null: all."""
    least: Fraction = 0.7
    """Cosine above which two latents count as the same."""
    match_up_to: Count = 8192
    """Live latents up to which they are matched one to one too, which takes time that grows with
    their number cubed."""


class LocalisationStudy(Frozen):
    """Whether a few latents carry the name in indirect-object sentences (Cunningham et al.)."""

    study: Literal["localisation"] = "localisation"
    """Which study it is."""
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 4, 8, 16, 32)
    """How many latents are patched at once."""
    positions: Literal["last", "all"] = "last"
    """Where: at the last token of the prompt, or at every one."""
    pairs: Annotated[int, Field(ge=8)] = 64
    """Pairs of prompts on which latents are chosen."""
    heldout_pairs: Annotated[int, Field(ge=8)] = 64
    """Other pairs, on which they are judged."""
    draws: PositiveInt = 4
    """Sets of random latents, for the control."""
    pca_tokens: PositiveInt = 8192
    """Training tokens, the first ones, that principal directions are of."""
    least_moved: Annotated[float, Field(gt=0)] = 0.1
    """Nats by which patching all of the activation has to move the logit difference, so that a
    share of it means something."""


Pool = Literal["mean", "max", "last"]
SAE_PROBES_MISSING = "the package sae-probes, which holds the data sets to probe, is not installed"
SAE_PROBES_HINT = "`pip install --no-deps sae-probes`: only its data is read."


class ProbingTask(TextSet):
    """Texts with a label each. One of `builtin`, `path`, `hf`, `sae_probes`."""

    builtin: Literal["tiny"] | None = None
    """Six data sets made of the embedded model's grammar: requests, topics, speech, number."""
    sae_probes: str | None = None
    """One of the 113 data sets in the package sae-probes, as `spam_is`, or `all` of them."""
    label: str = "label"
    """Column that holds the labels: truth values, numbers or words."""
    positive: bool | int | str | None = None
    """The label that is held against all others. null: there are two, and it is the one whose
    text sorts last, as 1, true and yes do."""

    @model_validator(mode="after")
    def _one_origin(self) -> ProbingTask:
        exactly_one(self, "builtin", "path", "hf", "sae_probes")
        return self


class ProbingStudy(Frozen):
    """What k latents tell of binary labels of texts (Gurnee et al. 2023)."""

    study: Literal["probing"] = "probing"
    """Which study it is."""
    tasks: tuple[ProbingTask, ...] = ()
    """Data sets. None: those of `builtin: tiny` for the embedded model; other models need some."""
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 5, 16)
    """How many latents a probe reads."""
    pool: Pool = "mean"
    """What a text's latent is of its tokens': the mean, the largest, or the last token's."""
    context: PositiveInt = 128
    """Tokens of a text that are read, the first ones."""
    chat_template: bool = False
    """Wrap each text in the model's chat template, as one user turn."""
    rows: PositiveInt = 100_000
    """Rows of a data set that are read, the first ones."""
    train_texts: PositiveInt = 4000
    """Most texts that probes are trained on."""
    test_texts: PositiveInt = 1000
    """Most texts that they are tested on. A data set that has fewer is cut in the same ratio."""
    balanced: bool = True
    """As many texts of either label. Off: as many as there are."""
    strengths: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (
        0.001,
        0.1,
        10.0,
        1000.0,
    )
    """Inverse strengths C of the L2 penalty; cross-validation on training texts chooses one."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Of that cross-validation."""
    seed: Count = 0
    """Of the choice of texts, the split and the folds."""


class ExplanationsStudy(Frozen):
    """Whether a latent can be told in words that predict it on text they were not made from."""

    study: Literal["explanations"] = "explanations"
    """Which study it is."""
    latents: PositiveInt = 64
    """Latents that are explained, drawn evenly from those that fire in the training text."""
    train_tokens: PositiveInt | None = 1_000_000
    """Training tokens, the first ones, that explanations are made from; `null`: all."""
    heldout_tokens: PositiveInt | None = None
    """Held-out tokens, the first ones, that they are scored on; `null`: all."""
    window: Annotated[int, Field(ge=2)] = 32
    """Tokens of an example."""
    examples: Annotated[int, Field(ge=5)] = 50
    """Windows of each kind, with the latent and without it, that a score is over at most."""
    bins: PositiveInt = 10
    """Bins of equal counts, by a window's largest activation, that windows are chosen from."""
    order: Annotated[int, Field(ge=1, le=3)] = 2
    """Tokens that a pattern may look at: 1 the token alone, 2 also the one before it, 3 two."""
    seed: Count = 0
    """Of what is drawn: latents, windows, marks."""
    judge: JudgeSpec | None = None
    """Also ask a language model, with the same examples."""


Study = (
    TruthStudy
    | StabilityStudy
    | LocalisationStudy
    | ProbingStudy
    | ExplanationsStudy
    | SteeringStudy
)


class StudiesSpec(Frozen):
    """Studies to make of every SAE, each with its own settings; `{}` takes its defaults."""

    truth: TruthStudy | None = None
    """For the embedded model: labels of its grammar."""
    stability: StabilityStudy | None = None
    """For SAEs that differ in their seed alone."""
    localisation: LocalisationStudy | None = None
    """For the embedded model: indirect-object sentences."""
    probing: ProbingStudy | None = None
    """Sparse probes."""
    explanations: ExplanationsStudy | None = None
    """Explanations, and their scores."""
    steering: SteeringStudy | None = None
    """Refusal, made by a few features."""

    def asked(self) -> tuple[Study, ...]:
        """Those that are asked for, in the order of their names here."""
        found = (getattr(self, name) for name in STUDIES)
        return tuple(each for each in found if each is not None)
