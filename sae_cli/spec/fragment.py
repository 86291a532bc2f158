"""Partial training specs and matrix axes, derived from the architectures so that they can't drift.

`train:` and an entry of the `sae` axis hold some fields of some architecture; an axis holds a list
of values of one such field. Both are built here from `ARCHITECTURES`, with types and field
documentation, so that the JSON schema and did-you-mean know every one of them. What only says which
files an imported SAE is read from belongs to its cell, and is no axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, WithJsonSchema, WrapValidator, create_model
from pydantic.fields import FieldInfo

from sae_cli.spec.base import Count, Fraction, Frozen
from sae_cli.spec.imported import SAES
from sae_cli.spec.stages import Site
from sae_cli.spec.train import ARCHITECTURES


def _fields(specs: Iterable[type[Frozen]]) -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for spec in specs:
        for name, info in spec.model_fields.items():
            found.setdefault(name, info)
    return found


TRAIN_FIELDS = _fields(ARCHITECTURES.values())
SAE_FIELDS = _fields(SAES.values())
ARCH = Literal[tuple(SAES)]  # type: ignore[valid-type]


def _value_type(name: str, info: FieldInfo) -> Any:
    """A field's own type with its bounds, without its default."""
    annotation = ARCH if name == "arch" else info.annotation
    bounds = tuple(m for m in info.metadata if not _is_marker(m))
    return Annotated[(annotation, *bounds)] if bounds else annotation


def _is_marker(mark: Any) -> bool:
    return type(mark).__module__.startswith("sae_cli")


def _doc(name: str, info: FieldInfo) -> str:
    return "Architecture." if name == "arch" else (info.description or "")


def _absent(doc: str) -> Any:
    """A field that may be left out; null is a value only where the field's own type has it."""
    return Field(default=None, validate_default=False, description=doc)


def _one_or_by_layer(value: Any, check: Callable[[Any], Any]) -> Any:
    """A digest, or one for each layer that the files of the folder name."""
    if isinstance(value, dict):
        return {str(layer): check(digest) for layer, digest in value.items()}
    return check(value)


def _as_it_is(value: Any) -> Any:
    return value


_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_partial: dict[str, Any] = {
    name: (_value_type(name, info), _absent(_doc(name, info))) for name, info in SAE_FIELDS.items()
}
_digest, _ = _partial["digest"]
_digest_doc = _doc("digest", SAE_FIELDS["digest"]) + " Or one for each layer: `{3: ..., 4: ...}`."
_digest_schema = {
    "anyOf": [_SHA256, {"type": "object", "additionalProperties": _SHA256}, {"type": "null"}]
}
_digest_marks = (
    WrapValidator(_one_or_by_layer),
    PlainSerializer(_as_it_is),
    WithJsonSchema(_digest_schema),
)
_partial["digest"] = (Annotated[(_digest, *_digest_marks)], _absent(_digest_doc))
_place: dict[str, Any] = {
    "model": (str, _absent("A model's name.")),
    "layer": (Count, _absent("Layer, from 0.")),
    "depth": (Fraction, _absent("Layer as a share of the depth.")),
    "site": (Site, _absent("Where in the layer.")),
}

TrainFragment: Any = create_model(
    "TrainFragment", __base__=Frozen, __doc__="Some fields of a training spec.", **_partial
)
CellFragment: Any = create_model(
    "CellFragment",
    __base__=Frozen,
    __doc__="A cell, or part of one, by axis names.",
    **_place,
    **_partial,
)


def _axis(value_type: Any, doc: str, *more: Any) -> tuple[Any, Any]:
    axis = Annotated[(tuple[value_type, ...], Field(min_length=1), *more)]
    return (axis, _absent(doc))


def _list_or_all(value: Any, check: Callable[[Any], Any]) -> Any:
    return value if value == "all" else check(value)


_LAYERS_SCHEMA = {
    "anyOf": [
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        {"const": "all"},
    ]
}


_axes: dict[str, Any] = {
    "model": _axis(str, "Models by name, hub id or folder."),
    "layer": _axis(
        Count,
        "Layers from 0, or `all`.",
        WrapValidator(_list_or_all),
        PlainSerializer(_as_it_is),
        WithJsonSchema(_LAYERS_SCHEMA),
    ),
    "depth": _axis(Fraction, "Layers as shares of the depth: floor(depth * n_layers)."),
    "site": _axis(Site, "Sites."),
    "sae": _axis(TrainFragment, "Fields of the training spec that vary together."),
    **{
        name: _axis(_value_type(name, info), _doc(name, info))
        for name, info in TRAIN_FIELDS.items()
    },
    "exclude": (
        tuple[CellFragment, ...],
        Field(default=(), description="Cells to leave out: all that match every given axis."),
    ),
    "include": (
        tuple[CellFragment, ...],
        Field(default=(), description="Further cells, each complete."),
    ),
}

MatrixSpec: Any = create_model(
    "MatrixSpec",
    __base__=Frozen,
    __doc__="Axes whose product gives the cells; then `exclude`, then `include`.",
    **_axes,
)
