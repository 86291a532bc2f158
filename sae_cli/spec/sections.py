"""Which keys each section of a file admits: what 'unknown key' is worded with."""

from __future__ import annotations

from typing import Any

from sae_cli.spec.base import Frozen


def keys_of(whole: type[Frozen]) -> dict[str, tuple[str, ...]]:
    """The keys of each section, by dotted path (`*` for an index or a free name)."""
    out: dict[str, tuple[str, ...]] = {}
    _collect(whole, "", out)
    return out


def _collect(part: type[Frozen], path: str, out: dict[str, tuple[str, ...]]) -> None:
    out[path] = tuple(part.model_fields)
    for name, info in part.model_fields.items():
        here = f"{path}.{name}" if path else name
        for inner, star in _parts(info.annotation, False):
            _collect(inner, f"{here}.*" if star else here, out)


def _parts(annotation: Any, star: bool) -> list[tuple[type[Frozen], bool]]:
    """The specs inside an annotation, and whether an index or a name stands before them."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return [(annotation, star)]
    inside = getattr(annotation, "__args__", ())
    many = star or getattr(annotation, "__origin__", None) in (tuple, list, dict)
    return [found for a in inside for found in _parts(a, many)]
