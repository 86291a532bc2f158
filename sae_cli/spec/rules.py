"""A rules file: which features of which SAE a monitor watches, and from what on a rule fires.

Two kinds of rules fire: one whose threshold somebody wrote, and one that was calibrated, whose
threshold belongs to the SAE, the model and the rule that it was found with. `calibration` and
`calibrated` are written by `saectl monitor --calibrate`; a rule that was changed since is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml as pyyaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sae_cli.spec import yaml
from sae_cli.spec.base import Count, Frozen, Shape
from sae_cli.spec.problems import Problem, SpecProblems, from_validation
from sae_cli.spec.sections import keys_of

Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
Name = Annotated[str, Shape(r"[A-Za-z0-9][\w.-]{0,63}", "a name of letters, digits, _ . and -")]
HEAD = "# Thresholds found by saectl monitor --calibrate: they hold for this SAE and model alone.\n"


class Weighed(Frozen):
    """A feature of the SAE, and how much it counts."""

    feature: Count
    """Its number, from 0."""
    weight: float = 1.0
    """What its value, in raw activation units, is multiplied by."""


class Calibrated(Frozen):
    """What calibration found of one rule."""

    rule: str
    """sha256 of the rule as it was then."""
    threshold: float
    target_fpr: float
    texts: int
    """Negative texts with a score."""
    false_positives: int
    """Those that fire: their score is above the threshold."""
    fpr: float
    low: float
    """Lower end of the 95 % interval (Clopper and Pearson 1934)."""
    high: float
    expected_fpr: float
    """Of a new text like these: (false positives + 1) / (texts + 1), where no two scores tie."""


class Rule(Frozen):
    """A score of a text, and from what on it fires: the weighted sum of features, over tokens."""

    name: Name
    features: Annotated[tuple[Weighed, ...], Field(min_length=1)]
    """Those that are watched."""
    over: Literal["max", "mean"] = "max"
    """max: of the token where the sum is largest; mean: of all tokens that count."""
    threshold: float | None = None
    """The rule fires above it. null: found by --calibrate."""
    target_fpr: Rate | None = None
    """Share of the negative texts that may fire, at most: what --calibrate aims at."""
    calibrated: Calibrated | None = None
    """Written by --calibrate."""

    @field_validator("features")
    @classmethod
    def _each_once(cls, value: tuple[Weighed, ...]) -> tuple[Weighed, ...]:
        many = [f for f, n in Counter(each.feature for each in value).items() if n > 1]
        if many:
            raise PydanticCustomError(
                "feature_twice", "feature {f} is given twice: add up its weights", {"f": many[0]}
            )
        return value

    def digest(self, rules: Rules) -> str:
        """sha256 of all that decides this rule's scores, and of its target."""
        decides = {
            "features": [[each.feature, each.weight] for each in self.features],
            "over": self.over,
            "target_fpr": self.target_fpr,
            "chat": rules.chat,
            "max_tokens": rules.max_tokens,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


class SaeIdentity(Frozen):
    """The SAE that a calibration was made with: what decides its features' values."""

    name: str
    """For people; it may be called otherwise elsewhere."""
    sha256: str
    """Of sae_weights.safetensors."""
    architecture: str
    k: int | None
    layer: int
    site: str
    mask: dict[str, Any]
    """Which tokens do not count."""
    outlier_norm: float | None
    """Norm above which a token does not count."""


class ModelIdentity(Frozen):
    """The model that a calibration was made with."""

    name: str
    """Hub id, `tiny`, or `local`."""
    revision: str | None
    """Commit of a hub model."""
    digest: str | None
    """sha256 over the files of a model that is no hub's."""
    dtype: str
    attn_implementation: str
    reinit: int | None
    tokenizer: str
    """sha256 of the tokenizer, its chat template included."""


class Calibration(Frozen):
    """What the thresholds of a file hold for, and what they were found on."""

    saectl: str
    device: str
    """What computed it: other devices round otherwise."""
    sae: SaeIdentity
    model: ModelIdentity
    file: str
    """Name of the file of negative texts."""
    sha256: str
    """Of its bytes."""
    texts: int
    distinct: int
    """Texts that differ."""


class Rules(Frozen):
    """A rules file."""

    version: Literal[1]
    sae: Annotated[str, Field(min_length=1)]
    """The SAE: a name or key of the workspace, or a folder."""
    chat: bool = False
    """Read texts as the model's chat template writes them: a text is one user's message, and a list
    of {role, content} is a conversation."""
    text: Annotated[str, Field(min_length=1)] = "text"
    """The field of a line that holds the text."""
    max_tokens: Annotated[int | None, Field(ge=2)] = None
    """Tokens of a window that a longer text is read in. null: what the model can read."""
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    calibration: Calibration | None = None
    """Written by --calibrate."""

    @model_validator(mode="after")
    def _names_differ(self) -> Rules:
        many = [n for n, times in Counter(rule.name for rule in self.rules).items() if times > 1]
        if many:
            raise PydanticCustomError(
                "name_twice",
                "two rules are called {name}: records tell rules apart by their names",
                {"name": many[0], "field": "rules"},
            )
        return self


def load_rules(path: Path) -> Rules:
    """Read a rules file. Raises SpecError with file:line:col of every problem, UsageError if there
    is no such file."""
    document = yaml.load(path)
    if not isinstance(document.data, dict):
        wrong = Problem((), "a rules file is a mapping of keys")
        raise yaml.explain(SpecProblems([wrong]), document)
    try:
        rules = Rules.model_validate(document.data)
        problems = document.problems
    except ValidationError as error:
        problems = [*document.problems, *from_validation(error, keys_of(Rules))]
    if problems:
        raise yaml.explain(SpecProblems(problems), document)
    return rules


def written(rules: Rules) -> str:
    """The file that `load_rules` reads these from."""
    plain = rules.model_dump(mode="json", exclude_unset=True)
    text = pyyaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=96)
    return HEAD + text if rules.calibration is not None else text
