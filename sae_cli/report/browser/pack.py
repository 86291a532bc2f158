"""Arrays and JSON as one script that a page may load from disk, where it may fetch nothing.

    saectl("feat-000", "eJzt...")

The text is base64 of zlib of: the header's length (u32, little-endian), the header (JSON: `meta`
and `arrays`, a list of name, dtype, shape, and offset from the header's end), then the arrays,
each at a multiple of eight bytes. Base64 has no `<`, so whatever the data says, no script ends.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {
    "uint8": "u1",
    "uint16": "u2",
    "uint32": "u4",
    "int8": "i1",
    "int16": "i2",
    "float32": "f4",
}
ALIGNED = 8


def script(name: str, meta: Any, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The file that hands `meta` and `arrays` to the page under `name`, plain letters."""
    body, listed, offset = [], [], 0
    for key, array in arrays.items():
        data = np.ascontiguousarray(array)
        raw = data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes()
        listed.append([key, DTYPES[data.dtype.name], list(data.shape), offset])
        filled = raw + b"\0" * (-len(raw) % ALIGNED)
        body.append(filled)
        offset += len(filled)
    head = json.dumps({"meta": meta, "arrays": listed}, ensure_ascii=False, allow_nan=False)
    encoded = head.encode("utf-8", "replace")
    encoded += b" " * (-(len(encoded) + 4) % ALIGNED)
    whole = struct.pack("<I", len(encoded)) + encoded + b"".join(body)
    packed = base64.b64encode(zlib.compress(whole, 6))
    return b'saectl("' + name.encode("ascii") + b'","' + packed + b'");\n'


def read(text: bytes) -> tuple[str, Any, dict[str, NDArray[Any]]]:
    """What a file of `script` holds: name, meta, arrays."""
    name, packed = text.decode("ascii").split('"')[1:4:2]
    whole = zlib.decompress(base64.b64decode(packed))
    (length,) = struct.unpack_from("<I", whole)
    head = json.loads(whole[4 : 4 + length])
    arrays = {
        key: np.frombuffer(whole, "<" + code, int(np.prod(shape)), 4 + length + offset).reshape(
            shape
        )
        for key, code, shape, offset in head["arrays"]
    }
    return name, head["meta"], arrays
