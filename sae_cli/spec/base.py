"""What every part of a spec is: frozen, closed to unknown keys, and clear about its identity.

Two markers say how a field enters a stage's key (`store.key`): a field marked `Execution` never
does, because it changes how work is done and not what comes out; a field marked `Later` was added
after keys existed and is left out at its default, so that old keys live.
"""

from __future__ import annotations

import re
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=0)]


class Execution:
    """Marker: this field does not change the result, so it is not part of any key."""


class Later:
    """Marker: added after the first keys were written; left out of the key at its default."""


@dataclass(frozen=True)
class Shape:
    """Marker: a text that `pattern` matches whole; a user is told so in `words`."""

    pattern: str
    words: str

    def check(self, text: str) -> str:
        """`text`, if it has the shape. Raises the error that pydantic collects."""
        if re.fullmatch(self.pattern, text) is None:
            raise PydanticCustomError(
                "shape", "'{text}' is not {words}", {"text": text, "words": self.words}
            )
        return text

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^({self.pattern})$"}


class Frozen(BaseModel):
    """A validated part of a spec. Unknown keys are errors, values can't be changed."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _bool_is_no_number_and_no_text(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads an unquoted `no` as false: never let that become a text or the number 0."""
        assert info.field_name is not None
        entries = value if isinstance(value, (list, tuple)) else [value]
        bad = next((i for i, v in enumerate(entries) if isinstance(v, bool)), None)
        if bad is None or _admits_bool(cls.model_fields[info.field_name].annotation):
            return value
        raise PydanticCustomError(
            "bool_not_allowed",
            "true/false is not a value here (YAML reads an unquoted yes, no, on, off "
            "as true/false; put it in quotes if you mean the text)",
            {} if entries is not value else {"field": bad},
        )


def exactly_one(part: Frozen, *names: str) -> None:
    """Raises the error that pydantic collects unless exactly one of the fields is given."""
    given = [n for n in names if getattr(part, n) is not None]
    if len(given) != 1:
        said = ", ".join(given) if given else "none"
        at = {"field": given[-1]} if given else {}
        raise PydanticCustomError(
            "exactly_one",
            "give exactly one of {names} (given: {said})",
            {"names": ", ".join(names), "said": said, **at},
        )


def _admits_bool(annotation: Any) -> bool:
    if annotation in (bool, Any):
        return True
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return any(isinstance(a, bool) for a in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType, typing.Annotated, tuple):
        return any(_admits_bool(a) for a in typing.get_args(annotation))
    return False


def identity(part: Frozen) -> dict[str, Any]:
    """The fields of `part` that decide its result, as plain data for `store.key`.

    Leaves out `Execution` fields always and `Later` fields at their default; nested specs
    likewise.
    """
    out: dict[str, Any] = {}
    for name, later, default in _deciding(type(part)):
        value = getattr(part, name)
        if not (later and value == default):
            out[name] = _plain(value)
    return out


@cache
def _deciding(kind: type[Frozen]) -> tuple[tuple[str, bool, Any], ...]:
    """The fields that may decide a result: name, whether it came later, and its default then. Asked
    for each of hundreds of stages."""
    found = []
    for name, field in kind.model_fields.items():
        marks = {m if isinstance(m, type) else type(m) for m in field.metadata}
        if Execution not in marks:
            found.append((name, Later in marks, field.default))
    return tuple(found)


def _plain(value: Any) -> Any:
    if isinstance(value, Frozen):
        return identity(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
