"""A language model that judges, and what it may spend."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from sae_cli.spec.base import Count, Execution, Frozen, Shape

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
    """Further attempts at a question, after 429, 5xx or no answer. One that has none after these
    fails the study, and the next run asks it."""
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
