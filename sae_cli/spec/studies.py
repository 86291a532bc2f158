"""What a sweep may ask beyond metrics: is a latent something? One class a study, by its name.

Each is a stage of its own, so that an edit to one moves no other's key. Nothing is studied unless
it is asked for.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from sae_cli.spec.base import Count, Execution, Frozen, Shape

StudyName = Literal["truth", "stability", "localisation", "probing", "explanations"]
STUDIES: tuple[StudyName, ...] = (
    "truth", "stability", "localisation", "probing", "explanations",
)  # fmt: skip


COMPARING: frozenset[StudyName] = frozenset({"stability"})
"""Those that look at an SAE's twins too: its key holds theirs."""


class TruthStudy(Frozen):
    """How well single latents match the labels of the embedded model's grammar."""

    study: Literal["truth"] = "truth"


class StabilityStudy(Frozen):
    """How many latents other seeds find too."""

    study: Literal["stability"] = "stability"


class LocalisationStudy(Frozen):
    """Whether a few latents carry the name in indirect-object sentences (Cunningham et al.)."""

    study: Literal["localisation"] = "localisation"


class ProbingStudy(Frozen):
    """What k latents tell of binary labels of texts (Gurnee et al. 2023)."""

    study: Literal["probing"] = "probing"


Variable = Annotated[str, Shape(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable")]


class JudgeSpec(Frozen):
    """A language model behind an OpenAI-compatible endpoint, asked to explain and to judge.

    What it may spend is what the answers for one SAE may cost, those that are kept from before
    among them. It decides how many latents are judged, so it is part of the key; to raise it
    makes the study anew, and pays for new answers only.
    """

    base_url: Annotated[
        str,
        Execution(),
        Shape(
            r"https?://[^\s/?#@]+(/[^\s?#@]*)?",
            "an address such as http://localhost:8000/v1 (no user, password or query in it)",
        ),
    ]
    """Where `/chat/completions` is, for example `http://localhost:8000/v1`."""
    model: Annotated[str, Field(min_length=1)]
    """The model's name there."""
    api_key_env: Annotated[Variable | None, Execution()] = None
    """The environment variable that holds the key. Left out, none is sent."""
    max_tokens: PositiveInt | None = None
    """Tokens that the answers for one SAE may cost, in and out together."""
    max_cost: PositiveFloat | None = None
    """Money that they may cost, in the prices' currency."""
    price_in: Annotated[float, Field(ge=0)] | None = None
    """Of a million tokens that are sent."""
    price_out: Annotated[float, Field(ge=0)] | None = None
    """Of a million tokens that are answered."""
    latents: PositiveInt | None = None
    """Judge the first so many of the study's latents; left out, all."""
    shown: PositiveInt = 40
    """Windows of the training text that an explanation is made from."""
    per_prompt: PositiveInt = 5
    """Windows that are judged in one question."""
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    """`null` sends none, for models that refuse it."""
    answer_tokens: PositiveInt = 512
    """Most tokens of an answer. Models that think before they answer need more."""
    timeout: Annotated[PositiveFloat, Execution()] = 120.0
    """Seconds to wait for an answer."""
    retries: Annotated[Count, Execution()] = 5
    """Further attempts at a question, after 429, 5xx or no answer."""
    concurrency: Annotated[PositiveInt, Execution()] = 4
    """Questions that are under way at a time."""

    @model_validator(mode="after")
    def _has_a_budget(self) -> JudgeSpec:
        if self.max_tokens is None and self.max_cost is None:
            raise PydanticCustomError(
                "budget", "say what may be spent on an SAE: max_tokens, or max_cost with prices"
            )
        if self.max_cost is not None and None in (self.price_in, self.price_out):
            raise PydanticCustomError(
                "prices", "max_cost needs price_in and price_out", {"field": "max_cost"}
            )
        return self


class ExplanationsStudy(Frozen):
    """Whether a latent can be told in words that predict it on text they were not made from."""

    study: Literal["explanations"] = "explanations"
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


Study = TruthStudy | StabilityStudy | LocalisationStudy | ProbingStudy | ExplanationsStudy


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

    def asked(self) -> tuple[Study, ...]:
        """Those that are asked for, in the order of their names here."""
        found = (getattr(self, name) for name in STUDIES)
        return tuple(each for each in found if each is not None)
