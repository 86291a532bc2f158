"""What is the same for every SAE of a site: prompts, activations, and the model left alone.

R, the tokens that a refusal begins with, is read off the model's own refusals of harmful selection
prompts. A model that refuses none of them has no R, and nothing can be told of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_cli.spec.steering import SteeringStudy
from sae_cli.studies.bench import Bench
from sae_cli.studies.kept import Kept
from sae_cli.studies.steer.chat import Asked, asked
from sae_cli.studies.steer.choice import Validation
from sae_cli.studies.steer.edits import Push, nothing
from sae_cli.studies.steer.prompts import PARTS, Prompts, gathered
from sae_cli.studies.steer.reading import read
from sae_cli.studies.steer.replies import Scored, refusing_tokens, scored
from sae_cli.studies.steer.shortlist import Site
from sae_cli.studies.steer.speak import Ids, Speaker

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """The test prompts of one kind, and the model left alone on them."""

    asked: list[Asked]
    texts: list[str]
    data: list[str]
    """The data set that each is of."""
    plain: Scored
    gaps: Floats
    """r of each; NaN where there is no R."""


@dataclass(frozen=True)
class World:
    """Of one site."""

    spec: SteeringStudy
    bench: Bench
    speaker: Speaker
    prompts: Prompts
    site: Site
    on: Validation
    harmful: Side
    harmless: Side
    tokens: dict[int, float]
    """R, each with its chance to begin a refusal; empty where the model never refused."""

    @property
    def builtin(self) -> bool:
        """Whether the model is the embedded one, whose refusals have a known form."""
        return self.bench.spec.builtin is not None

    def of(self, key: str) -> World:
        """The same, where what is asked is about one SAE of the bench."""
        kept = self.speaker.kept.chapter(key, self.bench.saes[key])
        speaker = Speaker(self.bench, kept)
        return replace(self, speaker=speaker, on=replace(self.on, speaker=speaker))

    def said(self, some: Sequence[Asked], pushes: Sequence[Push]) -> list[Scored]:
        """What is said to prompts under each push, scored."""
        found = self.speaker.replies(some, pushes, self.spec.answer_tokens)
        return [self.scored(each) for each in found]

    def scored(self, replies: Sequence[Ids]) -> Scored:
        """What replies are."""
        return scored(self.bench.tokenizer, replies, self.spec.phrases, builtin=self.builtin)

    @property
    def record(self) -> dict[str, Any]:
        """How it was asked, as plain data."""
        words = self.bench.tokenizer.convert_ids_to_tokens(list(self.tokens))
        return {
            "prompts": self.prompts.record,
            "read_at": self.site.harmful.places,
            "refusal_tokens": dict(zip(words, self.tokens.values(), strict=True)),
            "unit_of_strength": self.site.norm,
            "norm_of_difference_in_means": float(self.site.direction.norm()),
            "chat": "the model's template, thinking off; greedy; nothing in front",
        }


def opened(spec: SteeringStudy, bench: Bench) -> World:
    """Everything before the first SAE. Raises DataError."""
    prompts = gathered(spec, builtin=bench.spec.builtin is not None)
    tokenizer, speaker = bench.tokenizer, Speaker(bench, Kept(bench.scratch / "answers"))
    bad, good = (
        {part: asked(tokenizer, [p.text for p in kind[part]]) for part in PARTS}
        for kind in (prompts.harmful, prompts.harmless)
    )
    close = asked(tokenizer, [p.text for p in prompts.matched])
    site = Site(*(read(bench, some) for some in (bad["selection"], good["selection"], close)))

    def answers(some: list[Asked]) -> list[Ids]:
        return speaker.replies(some, [nothing()], spec.answer_tokens)[0]

    def score(replies: list[Ids]) -> Scored:
        builtin = bench.spec.builtin is not None
        return scored(tokenizer, replies, spec.phrases, builtin=builtin)

    refused, answered = (
        speaker.first(some)[score(answers(some)).refused == yes]
        for some, yes in ((bad["selection"], 1.0), (good["selection"], 0.0))
    )
    tokens: dict[int, float] = {}
    if len(refused):
        rest = answered.mean(0) if len(answered) else np.zeros(refused.shape[1])
        tokens = refusing_tokens(refused.mean(0), rest)
    refusing = torch.tensor(sorted(tokens), dtype=torch.int64)

    def side(kind: Any, some: list[Asked]) -> Side:
        gaps = np.full(len(some), np.nan)
        if tokens:
            gaps = speaker.gaps(some, [nothing()], refusing)[0]
        told = kind["test"]
        return Side(
            some, [p.text for p in told], [p.data for p in told], score(answers(some)), gaps
        )

    on = Validation(speaker, bad["validation"], good["validation"], refusing, site.norm)
    return World(
        spec, bench, speaker, prompts, site, on, side(prompts.harmful, bad["test"]),
        side(prompts.harmless, good["test"]), tokens,
    )  # fmt: skip
