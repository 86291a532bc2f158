"""What a stage is called: canonical JSON, the key that is hashed from it, and a readable slug.

A key must come out the same on every machine and in every Python, so only plain data has a
canonical form. Anything else (a path, an enum, a numpy number, NaN) is refused where it stands,
never turned into a string. Numbers that compare equal but are typed apart (1, 1.0, true) are
different values here: the spec's types decide which one a field holds.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from sae_cli.errors import UsageError

KEY_LENGTH = 8
SLUG_LIMIT = 96


def canonical(value: object) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, ASCII escapes, shortest floats.

    Takes dict (str keys), list or tuple (the same thing here), str, int, finite float, bool and
    None, of exactly these types. -0.0 is written as 0.0, since equal settings must share a key;
    strings are kept code point by code point (no Unicode normalisation).

    Raises TypeError naming the path of the first value that has no canonical form.
    """
    return json.dumps(_plain(value, "$"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(kind: str, version: int, identity: Mapping[str, Any], deps: Mapping[str, str]) -> str:
    """A stage's key: the first 8 hex digits of sha256 over {kind, version, identity, deps}.

    `deps` maps a dependency's role to its key. Raises TypeError for what `canonical` refuses.
    """
    whole = {"kind": kind, "version": version, "identity": dict(identity), "deps": dict(deps)}
    return hashlib.sha256(canonical(whole).encode("ascii")).hexdigest()[:KEY_LENGTH]


def slug(text: str, limit: int = SLUG_LIMIT) -> str:
    """`text` as one safe path component: [A-Za-z0-9._-], no leading dot or dash, at most `limit`.

    It may lose information (a key stands beside it wherever that matters), and it can't name
    another folder. Raises UsageError when nothing of `text` is left.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:limit].rstrip("._-")
    if not safe:
        raise UsageError(
            f"the name {text!r} holds no letter or digit that a folder name may carry",
            hint="use letters a-z and digits, with '.', '_' or '-' between them",
        )
    return safe


def _plain(value: object, path: str) -> object:
    kind = type(value)
    if value is None or kind in (str, int, bool):
        return value
    if kind is float:
        assert isinstance(value, float)
        if not math.isfinite(value):
            raise TypeError(f"{path}: {value!r} has no canonical form (only finite numbers do)")
        return value + 0.0  # turns -0.0 into 0.0 and nothing else
    if kind in (list, tuple):
        assert isinstance(value, (list, tuple))
        return [_plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if kind is dict:
        assert isinstance(value, dict)
        for name in value:
            if type(name) is not str:
                raise TypeError(f"{path}: the key {name!r} is not a string")
        return {name: _plain(item, f"{path}.{name}") for name, item in value.items()}
    raise TypeError(f"{path}: a {kind.__module__}.{kind.__qualname__} has no canonical form")
