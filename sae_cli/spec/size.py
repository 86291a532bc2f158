"""An amount of bytes, as people write it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

_SIZE = r"(\d+(?:\.\d+)?)\s*(?:([kmgtp])(i?))?b?"
_POWERS = "kmgtp"


def bytes_of(value: Any) -> int:
    """Bytes meant by `500 GB`, `1.5TB`, `200 GiB` (powers of 1024) or a whole number.

    Raises the error that pydantic collects.
    """
    text = str(value).strip()
    match = re.fullmatch(_SIZE, text, re.IGNORECASE) if isinstance(value, (int, str)) else None
    if match is None:
        raise PydanticCustomError(
            "size",
            "'{text}' is not a size: write 500 GB, 2TB, or a number of bytes",
            {"text": text},
        )
    power = 1 + _POWERS.index(match[2].lower()) if match[2] else 0
    base: int = 1024 if match[3] else 1000
    found = round(float(match[1]) * float(base**power))
    if found < 1:
        raise PydanticCustomError("size", "'{text}' leaves no room at all", {"text": text})
    return found


Size = Annotated[
    int,
    BeforeValidator(bytes_of),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([kKmMgGtTpP][iI]?)?[bB]?\s*$"},
            ]
        }
    ),
]
