"""Problems of a spec: each with its place in the YAML, all of a file told at once.

A place is a path of keys and indices (`("matrix", "layer", 0)`). `spec.yaml` knows where in the
file each path stands; this module only collects problems and words what pydantic found.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

Loc = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """What is wrong at `loc`; `at` says whether the caret goes under the key or the value."""

    loc: Loc
    what: str
    suggestion: str | None = None
    at: Literal["key", "value"] = "value"


class SpecProblems(Exception):
    """Raised inside `spec`; `spec.yaml.explain` turns it into the `SpecError` that users see."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(p.what for p in problems))
        self.problems = list(problems)


def closest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be, or None."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.55)
    return found[0] if found else None


def from_validation(error: ValidationError, known: dict[str, tuple[str, ...]]) -> list[Problem]:
    """Word pydantic's errors for users.

    `known` maps a dotted path of a section (indices written `*`) to the keys it admits.
    """
    errors = error.errors(include_url=False)
    around = {e["loc"][:depth] for e in errors for depth in range(len(e["loc"]))}
    return [
        _word(e, known)
        for e in errors
        if not (e["type"] == "too_short" and e["loc"] in around)  # its entries say it better
    ]


def _word(e: Any, known: dict[str, tuple[str, ...]]) -> Problem:
    loc: Loc = tuple(e["loc"])
    kind, context, value = e["type"], e.get("ctx") or {}, e.get("input")
    if "field" in context:
        loc = (*loc, context["field"])
    if kind == "extra_forbidden":
        choices = _keys(loc[:-1], known)
        guess = closest(str(loc[-1]), choices)
        what = "unknown key" + ("" if guess or not choices else f" (known: {', '.join(choices)})")
        return Problem(loc, what, guess, at="key")
    if kind == "missing":
        return Problem(loc[:-1], f"'{loc[-1]}' is missing", at="key")
    if kind == "literal_error":
        options = [
            o.strip().strip("'") for o in context["expected"].replace(" or ", ", ").split(",")
        ]
        guess = closest(str(value), options)
        return Problem(loc, f"{_show(value)} is not one of {', '.join(options)}", guess)
    if value is None and kind in _EMPTY:
        return Problem(loc, "nothing is given here: fill it, or leave the key out", at="key")
    wording = _WORDING.get(kind)
    if wording is not None:
        return Problem(loc, wording.format(v=_show(value), **context))
    return Problem(loc, e["msg"])


def _keys(section: Loc, known: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The keys of a section, whose last part may be an index or a name of the user's."""
    parts = ["*" if isinstance(p, int) else p for p in section]
    return known.get(".".join(parts)) or known.get(".".join([*parts[:-1], "*"]), ())


def _show(value: Any) -> str:
    """A value as a YAML file would say it, in short."""
    if isinstance(value, dict):
        return "{...}" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[...]" if value else "[]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


_WORDING = {
    "int_type": "{v} is not a whole number",
    "int_parsing": "{v} is not a whole number",
    "int_from_float": "{v} is not a whole number",
    "float_type": "{v} is not a number",
    "float_parsing": "{v} is not a number",
    "finite_number": "{v} is not a finite number",
    "bool_type": "{v} is not true or false",
    "bool_parsing": "{v} is not true or false",
    "string_type": "{v} is not a text (put it in quotes if it is meant as one)",
    "greater_than": "{v} is not greater than {gt:g}",
    "greater_than_equal": "{v} is less than {ge:g}",
    "less_than_equal": "{v} is more than {le:g}",
    "less_than": "{v} is not less than {lt:g}",
    "tuple_type": "{v} is not a list (write [{v}])",
    "dict_type": "{v} is not a mapping of keys",
    "model_type": "{v} is not a mapping of keys",
    "too_short": "the list is empty: give it an entry, or leave the key out",
}
_EMPTY = ("tuple_type", "dict_type", "model_type")
