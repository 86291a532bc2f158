"""JSON lines from a pipe or a file, one at a time: a line that is none is told, never fatal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from sae_cli.spec.problems import closest

LONGEST = 64 * 2**20
"""Bytes of a line, at most: what is held in memory is bounded."""


@dataclass(frozen=True)
class Line:
    """A line that is not blank."""

    number: int
    """From 1."""
    data: dict[str, Any] | None
    """The object that it holds."""
    wrong: str = ""
    """Why there is none."""


def lines(stream: BinaryIO) -> Iterator[Line]:
    """The lines of a stream, each as soon as it has ended."""
    number = 0
    while raw := stream.readline(LONGEST):
        number += 1
        if len(raw) == LONGEST and not raw.endswith(b"\n"):
            while (rest := stream.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield Line(number, None, f"the line is longer than {LONGEST // 2**20} MiB")
        elif raw.strip():
            yield _read(number, raw)


def _read(number: int, raw: bytes) -> Line:
    try:
        data = json.loads(raw.decode("utf-8"), parse_constant=_refuse)
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError:
        return Line(number, None, "not UTF-8 text")
    except UnicodeEncodeError:
        return Line(number, None, "a \\u escape is half a character")
    except json.JSONDecodeError as error:
        return Line(number, None, f"not valid JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        return Line(number, None, f"not valid JSON: {error}")
    except RecursionError:
        return Line(number, None, "it is nested without end")
    if not isinstance(data, dict):
        return Line(number, None, 'it is no JSON object: write {"text": ...}')
    return Line(number, data)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def no_field(data: Mapping[str, Any], field: str) -> str:
    """That a line lacks a field, and what it may be called."""
    names = [str(name) for name in data]
    guess = closest(field, names)
    said = f"  did you mean '{guess}'?" if guess else f" (it has: {', '.join(names) or 'nothing'})"
    return f"no field '{field}'{said}"
