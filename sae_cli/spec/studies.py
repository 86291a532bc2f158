"""What a sweep may ask beyond metrics: is a latent something? One class a study, by its name.

Each is a stage of its own, so that an edit to one moves no other's key. Nothing is studied unless
it is asked for.
"""

from __future__ import annotations

from typing import Literal

from sae_cli.spec.base import Frozen

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


class ExplanationsStudy(Frozen):
    """Whether a latent can be told in words that predict it on text they were not made from."""

    study: Literal["explanations"] = "explanations"


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
